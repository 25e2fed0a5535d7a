"""Estimate of where the time of a training step goes on a GPU: a roofline model.

Operations are exact (`modeling/flops.py`), kernels and traffic are counted (`python -m benchmarks step-cost`), and
rates are assumed: `roofline.yaml` lists them with their sources. Products, attention and traffic follow one another,
as they do in a stream of kernels. The host works ahead: its time counts only as far as the GPU would have to wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
import yaml
from rich.console import Console
from rich.table import Table

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import read_json
from llm_jp_modernbert.modeling.flops import peak_flops, training_flops
from llm_jp_modernbert.training.recipe.shapes import model_config

from .cases.training_step import MASKED, document_lengths
from .measure import COMPILED, OURS, write_json
from .models import VOCABULARY
from .recorder import OTHER

ASSUMPTIONS = Path(__file__).with_name("roofline.yaml")
COSTS = Path(__file__).with_name("results") / "step_cost"

TOTAL, RATE, MFU = "micro-batch", "tokens/s", "MFU"
# GPU and tokens of the longest document of each column of the estimates.
COLUMNS = {f"{gpu}, {length:,}": (gpu, length) for gpu in ("H100", "H200") for length in (1024, 8192)}

_DRAWN_TOKENS = 1 << 20  # enough documents for a mean
# Tokens of a micro-batch and accumulation in the recipes of stage 1, and the same global batch for 80 GB of memory.
_SHIPPED, _LARGE = (26_624, 8), (106_496, 2)


@dataclass(frozen=True)
class Training:
    """A way to train.

    Args:
        counts: a file of step-cost.
        candidate: the model in it, plain or compiled.
        attention: prefix of the attention kernel's rates.
        batch: tokens of a micro-batch, and micro-batches per optimizer step.
        fused: whether elementwise kernels are fused by hand, with the assumed traffic instead of the counted one.
    """

    counts: Mapping[str, Any]
    candidate: str
    attention: str = "fa2"
    batch: tuple[int, int] = _SHIPPED
    fused: bool = False


def estimate(training: Training, gpu: str, longest: int, assumed: Mapping[str, float]) -> dict[str, float]:
    """Estimate the milliseconds of a micro-batch by part, `tokens/s` and `MFU`.

    Args:
        training: the way to train.
        gpu: name of the GPU, which has a `bandwidth_…` among the assumptions.
        longest: tokens of the longest document.
        assumed: values of the assumptions.
    """
    settings, cost = training.counts["settings"], training.counts["costs"][training.candidate]
    config: Any = model_config({"shape": settings["shape"], "num_hidden_layers": settings["layers"]}, VOCABULARY)
    tokens, accumulation = training.batch
    predicted, layers = int(MASKED * tokens), config.num_hidden_layers
    lengths = document_lengths(_DRAWN_TOKENS, longest, seed=0)
    peak = peak_flops(gpu, "bfloat16") or 0.0
    bandwidth = assumed[f"bandwidth_{gpu.lower()}"] * assumed["traffic_efficiency"]

    useful = training_flops(config, lengths, int(MASKED * _DRAWN_TOKENS)) * tokens / _DRAWN_TOKENS
    # Single tokens attend to themselves, which costs next to nothing.
    products, head = training_flops(config, [1] * tokens, 0), training_flops(config, [], predicted)
    tiles = _operations_in_tiles(config, lengths, int(assumed["attention_tile"]))
    # The backward pass has five products for two, since it computes the scores again.
    attention = 1 / assumed[f"{training.attention}_forward"] + 2.5 / assumed[f"{training.attention}_backward"]
    attention *= tokens / _DRAWN_TOKENS

    # Layers have a constant number of kernels, the vocabulary head one per chunk of rows.
    kernels = layers * sum(cost["kernels per layer"].values())
    kernels += (sum(cost["kernels per micro-batch"].values()) - kernels) * max(1.0, tokens / settings["tokens"])
    layer_bytes = cost["bytes per token and layer"][OTHER]
    other_bytes = cost["bytes per token"][OTHER] - layers * layer_bytes
    if training.fused:
        layer_bytes = assumed["fused_bytes"] * config.hidden_size
    parameters = (products / tokens + head / predicted) / 6

    seconds = {
        "matrix products of layers": products / (peak * assumed["product_efficiency"]),
        "vocabulary head: matrix products": head / (peak * assumed["head_efficiency"]),
        "vocabulary head and embeddings: traffic": other_bytes * tokens / bandwidth,
        "attention, global layers": tiles["full_attention"] * attention,
        "attention, local layers": tiles["sliding_attention"] * attention / assumed["window_efficiency"],
        "elementwise traffic of layers": layers * layer_bytes * tokens / bandwidth,
        "gaps between kernels": kernels * assumed["kernel_gap"],
        "optimizer": parameters * assumed["optimizer_bytes"] / bandwidth / accumulation,
    }
    host = cost["host ms per micro-batch"] / 1000 / assumed["host_speed"] + kernels * assumed["kernel_launch"]
    seconds["waiting for the host"] = max(0.0, host - sum(seconds.values()))
    waits_per_batch = waits(cost, "micro-batch") + waits(cost, "optimizer step") / accumulation
    seconds["waiting for the host"] += waits_per_batch * assumed["wait"]
    total = sum(seconds.values())
    parts = {name: 1000 * value for name, value in seconds.items()}
    return {**parts, TOTAL: 1000 * total, RATE: tokens / total, MFU: useful / total / peak}


def waits(cost: Mapping[str, Any], part: str) -> int:
    """The number of synchronizations per `"micro-batch"` or `"optimizer step"`."""
    return sum(wait["count"] for wait in cost[f"synchronizations per {part}"])


def _operations_in_tiles(config: Any, lengths: Sequence[int], tile: int) -> dict[str, float]:
    """Operations of the forward pass by layer type, if partly visible tiles cost as much as visible ones."""
    tiles = -(-np.asarray(lengths) // tile)
    reach = -(-(config.local_attention // 2) // tile)
    near = sum((np.maximum(tiles - distance, 0) for distance in range(1, reach + 1)), np.zeros_like(tiles))
    pairs = {"full_attention": (tiles**2).sum(), "sliding_attention": (tiles + 2 * near).sum()}
    return {kind: 4 * config.hidden_size * tile**2 * config.layer_types.count(kind) * pairs[kind] for kind in pairs}


def roofline(
    shape: Annotated[Literal["base", "small"], typer.Option(help="Shape of the model.")] = "base",
    before: Annotated[Path | None, typer.Option(help="File of step-cost before the changes.")] = None,
    after: Annotated[Path | None, typer.Option(help="File of step-cost after the changes.")] = None,
    assume: Annotated[
        list[str] | None, typer.Option("--set", help="Replace an assumption: NAME=VALUE. Repeatable.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="YAML file that replaces assumptions: NAME: VALUE.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.", dir_okay=False)] = None,
) -> None:
    """Estimate the time and the utilization of a training step on an H100 and an H200. Needs no GPU.

    The assumed rates and their sources are in `benchmarks/roofline.yaml`.
    """
    assumed = assumptions(file, assume or [])
    files = (before or COSTS / f"before-{shape}.json", after or COSTS / f"after-{shape}.json")
    changes = estimates(read_counts(files[0]), read_counts(files[1]), assumed)
    console = Console()
    for change in (next(iter(changes)), next(reversed(changes))):
        parts = Table(f"ms per micro-batch: {change}", *COLUMNS, box=None)
        for part in next(iter(changes[change].values())):
            values = [changes[change][column][part] for column in COLUMNS]
            parts.add_row(part, *(f"{value:.1%}" if part == MFU else f"{value:,.1f}" for value in values))
        console.print(parts)
    overview = Table("MFU after each change, cumulative", *COLUMNS, box=None)
    for change, columns in changes.items():
        overview.add_row(change, *(f"{columns[column][MFU]:.1%}" for column in COLUMNS))
    console.print(overview)
    if out is not None:
        write_json(out, {"assumptions": assumed, "shape": shape, "changes": changes})


def estimates(
    before: Mapping[str, Any], after: Mapping[str, Any], assumed: Mapping[str, float]
) -> dict[str, dict[str, dict[str, float]]]:
    """Estimate a micro-batch after each change for GPUs, for each of `COLUMNS`; each change keeps those above it."""
    shipped = Training(before, OURS)
    compiled = replace(shipped, candidate=COMPILED)
    now = replace(compiled, counts=after)
    fast = replace(now, attention="fa3")
    large = replace(fast, batch=_LARGE)
    changes = {
        "before, layers not compiled": shipped,
        "before, compiled layers": compiled,
        "after, compiled layers": now,
        "FlashAttention-3": fast,
        f"{_LARGE[0]:,} tokens per micro-batch": large,
        "kernels fused by hand": replace(large, fused=True),
    }
    return {
        change: {column: estimate(training, *place, assumed) for column, place in COLUMNS.items()}
        for change, training in changes.items()
    }


def read_counts(path: Path) -> dict[str, Any]:
    """Read a file of step-cost with compiled layers."""
    content: Any = read_json(path) if path.is_file() else None
    if not isinstance(content, dict) or set(content.get("costs", ())) != {OURS, COMPILED}:
        raise UsageError(f"{path} is not a file of `python -m benchmarks step-cost --out FILE` with compiled layers.")
    return content


def assumptions(file: Path | None = None, changes: Sequence[str] = ()) -> dict[str, float]:
    """Read the assumptions and the values that replace them."""
    values = {name: float(entry["value"]) for name, entry in _read_yaml(ASSUMPTIONS).items()}
    replaced = {} if file is None else {name: (str(file), value) for name, value in _read_yaml(file).items()}
    for change in changes:
        name, _, value = change.partition("=")
        replaced[name] = ("--set", value)
    for name, (where, value) in replaced.items():
        if name not in values:
            raise UsageError(f"{where}: unknown assumption {name!r}; choose one of {', '.join(values)}.")
        try:
            values[name] = float(value)
        except (TypeError, ValueError):
            values[name] = 0.0
        if values[name] <= 0:
            raise UsageError(f"{where}: {name} must be a positive number, not {value!r}.")
    return values


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} must contain NAME: VALUE of assumptions.")
    return content

"""The cost of a training step that does not depend on a machine's speed: operations, traffic, waits and memory.

The step runs on a GPU without hardware (`stand_in_gpu`): bfloat16 autocast, the masked-LM loss at 30 % of the tokens,
backward pass, gradient clipping and fused AdamW. Host time is measured on this CPU with a model of tiny matrices.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor import compile_fx
from torch.utils._pytree import tree_map_only

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.training.recipe.shapes import model_config

from ..measure import COMPILED, OURS, environment, write_json
from ..models import VOCABULARY, Compiled, Shape
from ..recorder import Recorder
from ..stand_in_gpu import ATTENTION as ATTENTION_BACKEND
from ..stand_in_gpu import DEVICE, inductor_for, model_on_stand_in, opaque_attention, stand_in_gpu
from .training_step import Batch, random_documents

_PERIOD = 3  # layers after which the pattern of global and local layers repeats
_BATCH_SHAPES = 20  # batches of different sizes
_FEW_LAYERS = 4  # all kinds of layers: the first, a global and two local ones
_BLOCKS_VOCABULARY = 12_288  # more than a block of the vocabulary head on a CPU
_TINY_VOCABULARY = 256
_TURNS = 20


def step_cost(
    shape: Shape = "base",
    layers: Annotated[int | None, typer.Option(help="Number of layers; by default the shape's.", min=4)] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of a packed micro-batch.", min=64)] = 65_536,
    longest: Annotated[int, typer.Option(help="Tokens of the longest document.", min=16)] = 1024,
    compiled: Compiled = True,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.", dir_okay=False)] = None,
) -> None:
    """Count what a training step costs on a GPU: operations, kernels, traffic, waits of the host and memory.

    Needs no GPU. Kernels of compiled layers are those that torch.compile plans for an H100.
    """
    batch = random_documents(VOCABULARY, tokens, longest, seed=0)
    # As in the recipes for GPUs.
    model: dict[str, Any] = {"shape": shape, "autocast_residual": True}
    model |= {} if layers is None else {"num_hidden_layers": layers}
    settings = {
        "shape": shape,
        "layers": model_config(model, VOCABULARY).num_hidden_layers,
        "tokens": tokens,
        "longest document": longest,
        "documents": len(batch.ids),
        "predicted": batch.predicted,
    }
    names = (OURS, COMPILED) if compiled else (OURS,)
    costs = {name: cost(model, batch, name == COMPILED) for name in names}
    for name, milliseconds in host_milliseconds(model, costs[OURS]["operations per micro-batch"], compiled).items():
        costs[name]["host ms per micro-batch"] = milliseconds
    console = Console()
    console.print(", ".join(f"{key} {value}" for key, value in settings.items()), highlight=False)
    console.print(_overview(costs))
    for name, values in costs.items():
        for part in ("micro-batch", "optimizer step"):
            for wait in values[f"synchronizations per {part}"]:
                console.print(f"{name}, {part}: {wait['count']} × {wait['reason']} in {wait['line']}", highlight=False)
    if out is not None:
        write_json(out, {**environment(), "settings": settings, "costs": costs})


def cost(settings: dict[str, Any], batch: Batch, compiled: bool) -> dict[str, Any]:
    """Count one optimizer step with one micro-batch; `settings` are those of `model_config`."""
    config, tokens = model_config(settings, VOCABULARY), sum(batch.lengths)
    fewer_layers = model_config({**settings, "num_hidden_layers": config.num_hidden_layers - _PERIOD}, VOCABULARY)
    counted, fewer = _count([config, fewer_layers], batch, compiled)
    # All layers of a period, divided by their number.
    layer = {key: _quotient(_difference(counted[key], fewer[key]), _PERIOD) for key in ("kernels", "bytes")}
    return {
        "operations per micro-batch": counted["operations"],
        "kernels per micro-batch": counted["kernels"],
        "kernels per layer": layer["kernels"],
        "bytes per token": _quotient(counted["bytes"], tokens),
        "bytes per token and layer": _quotient(layer["bytes"], tokens),
        "activation bytes per token": round(counted["saved"] / tokens, 1),
        "activation bytes per token and layer": round((counted["saved"] - fewer["saved"]) / _PERIOD / tokens, 1),
        "synchronizations per micro-batch": counted["waits"],
        "operations per optimizer step": counted["optimizer operations"],
        "synchronizations per optimizer step": counted["optimizer waits"],
        **(_compilations(settings) if compiled else {}),
    }


def _difference(larger: dict[str, float], smaller: dict[str, float]) -> dict[str, float]:
    return {name: value - smaller.get(name, 0) for name, value in larger.items()}


def _quotient(values: dict[str, float], divisor: int) -> dict[str, float]:
    return {name: round(value / divisor, 2) for name, value in values.items()}


def _count(configs: Sequence[Any], batch: Batch, compiled: bool) -> list[dict[str, Any]]:
    """Count a micro-batch and an optimizer step on the stand-in, after a step that compiles and allocates."""
    recorder, host_inputs = Recorder(DEVICE, batch.predicted), _inputs(batch)
    results = []
    torch._dynamo.reset()
    with stand_in_gpu(), inductor_for(recorder.run_graph):
        for config in configs:
            model = model_on_stand_in(config)
            if compiled:
                model.compile_layers()
            optimizer = torch.optim.AdamW(model.parameters(), fused=True)
            for _ in range(2):
                inputs = tree_map_only(torch.Tensor, lambda tensor: tensor.to(DEVICE), host_inputs)
                recorder.clear()
                with recorder, recorder.saved_bytes(model) as saved:
                    _micro_batch(model, inputs)
                micro_batch = _counts(recorder)
                recorder.clear()
                with recorder:
                    _optimizer_step(model, optimizer)
            step = _counts(recorder)
            optimizer_counts = {"optimizer operations": step["operations"], "optimizer waits": step["waits"]}
            results.append({**micro_batch, **optimizer_counts, "saved": sum(saved)})
    return results


def _counts(recorder: Recorder) -> dict[str, Any]:
    waits = [{"reason": reason, "line": line, "count": count} for (reason, line), count in recorder.waits.items()]
    counts = {"kernels": dict(recorder.kernels), "bytes": dict(recorder.bytes), "waits": waits}
    return {"operations": sum(recorder.operations.values()), **counts}


def _inputs(batch: Batch) -> dict[str, Any]:
    """The packed batch and its number of labels as inputs of the model, on the host."""
    return {**batch.packed(), "num_items_in_batch": torch.tensor(batch.predicted)}


def _micro_batch(model: nn.Module, inputs: dict[str, Any]) -> None:
    with torch.autocast(inputs["input_ids"].device.type, dtype=torch.bfloat16):
        loss = model(**inputs).loss
    loss.backward()


def _optimizer_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def _compilations(settings: dict[str, Any]) -> dict[str, int]:
    """Count graphs, graph breaks, and the graphs that further batches of other sizes add; graphs run uncompiled."""
    graphs: list[int] = []

    def run_uncompiled(graph: Any, *_: Any, **__: Any) -> Any:
        graphs[-1] += 1
        return graph.forward

    model = _narrow_model({**settings, "num_hidden_layers": _FEW_LAYERS}, _BLOCKS_VOCABULARY)
    torch._dynamo.reset()
    counters.clear()
    model.compile_layers()
    with opaque_attention(), patch.object(compile_fx, "compile_fx", run_uncompiled):
        for seed in range(_BATCH_SHAPES):
            graphs.append(0)
            _micro_batch(model, _inputs(random_documents(_BLOCKS_VOCABULARY, 1000 - 16 * seed, 256, seed)))
    torch._dynamo.reset()
    breaks = sum(counters["graph_break"].values())
    return {"graphs": graphs[0], "graph breaks": breaks, f"recompilations in {_BATCH_SHAPES} batches": sum(graphs[1:])}


def _narrow_model(settings: dict[str, Any], vocabulary: int) -> LlmJpModernBertForMaskedLM:
    """A model on the CPU with the same layers, heads and code paths, but tiny matrices; needs `opaque_attention`."""
    heads = model_config(settings, vocabulary).num_attention_heads
    narrow = {**settings, "hidden_size": 2 * heads, "intermediate_size": 8}
    model = LlmJpModernBertForMaskedLM(model_config(narrow, vocabulary)).train()
    model.config._attn_implementation = ATTENTION_BACKEND
    return model


def host_milliseconds(settings: dict[str, Any], operations: int, compiled: bool) -> dict[str, float]:
    """Estimate the time in which this CPU's Python and torch ask a GPU for a micro-batch.

    A model with the same layers and tiny matrices runs on one thread, where computing takes little time. The fastest
    pass counts, in processor time. Operations that the GPU has in addition, such as chunks of the vocabulary
    head, cost the mean time of an operation.

    Args:
        settings: those of `model_config`.
        operations: number of operations per micro-batch without compiled layers.
        compiled: whether to measure compiled layers too.
    """
    batch = random_documents(_TINY_VOCABULARY, 32, 16, seed=0)
    model, inputs = _narrow_model(settings, _TINY_VOCABULARY), _inputs(batch)
    counted = _count([model.config], batch, False)[0]["operations"]
    threads, measured = torch.get_num_threads(), {}
    torch.set_num_threads(1)
    with opaque_attention():
        try:
            measured[OURS] = _fastest_milliseconds(lambda: _micro_batch(model, inputs))
            if compiled:
                torch._dynamo.reset()
                model.compile_layers()
                measured[COMPILED] = _fastest_milliseconds(lambda: _micro_batch(model, inputs))
        finally:
            torch.set_num_threads(threads)
    additional = measured[OURS] / counted * (operations - counted)
    return {name: round(time + additional, 1) for name, time in measured.items()}


def _fastest_milliseconds(work: Callable[[], None]) -> float:
    times = []
    for _ in range(_TURNS):
        start = time.thread_time()
        work()
        times.append(1000 * (time.thread_time() - start))
    return min(times)


def _overview(costs: dict[str, dict[str, Any]]) -> Table:
    table = Table("", *costs, box=None)
    for name in next(reversed(costs.values())):
        cells = [values.get(name) for values in costs.values()]
        keys = list(next(cell for cell in cells if cell is not None)) if isinstance(cells[-1], dict) else [None]
        for key in keys:
            shown = [cell.get(key) if key is not None and cell is not None else cell for cell in cells]
            shown = [sum(wait["count"] for wait in cell) if isinstance(cell, list) else cell for cell in shown]
            title = name if key is None else f"{name}: {key}"
            table.add_row(title, *("" if cell is None else f"{cell:,}" for cell in shown))
    return table

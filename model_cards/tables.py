"""Tables of a model card. Functions return None if there is nothing to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import yaml

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.references import is_local_path
from llm_jp_modernbert.core.results import READ_OFF
from llm_jp_modernbert.evaluation.report.leaderboard import Column, column_of, leaderboard
from llm_jp_modernbert.evaluation.tasks.fill_mask import FillMaskPublishedTokenizer
from llm_jp_modernbert.evaluation.tasks.registry import task_classes

from .facts import count_parameters, read_config
from .formatting import Markdown, code, duration, fence, in_words, number, percent, table

if TYPE_CHECKING:
    from llm_jp_modernbert.core.results import Row

    from .facts import Finding, ModelFacts

# Fields of a result shown with its settings.
_SELECTION = ("context", "train_files", "selected_on", "learning_rate", "epochs", "train_examples")
_PACKING = {"best_fit": "best-fit packing, no attention across documents", "none": "one document per sequence"}
_LONG_DOCUMENTS = {"cut": "long documents split", "truncate": "long documents truncated"}
_COUNTS = {
    "Optimizer steps": "steps",
    "Batch size, sequences": "rows_per_step",
    "Tokens": "tokens",
    "… with padded batches": "padded_tokens",
    "Predicted tokens": "labels",
    "Documents": "documents",
    "Characters": "characters",
}


def architecture(facts: ModelFacts) -> Markdown:
    """Shape and parameter counts."""
    config, parameters = read_config(facts.config), count_parameters(facts.config, facts.head)
    layer_types = config.layer_types or []
    full = layer_types.count("full_attention")
    head_size = config.hidden_size // config.num_attention_heads
    if facts.exports.other_parameters:
        parameters["Other modules"] = facts.exports.other_parameters
    rows = [
        ["Model type", code(facts.config["model_type"])],
        ["Parameters", f"{sum(parameters.values()):,}"],
        *([f"… {component.lower()}", f"{count:,}"] for component, count in parameters.items()),
        ["Layers", f"{len(layer_types)} ({full} global, {len(layer_types) - full} local)"],
        ["Hidden size", number(config.hidden_size)],
        ["Intermediate size (GeGLU)", number(config.intermediate_size)],
        ["Attention heads", f"{config.num_attention_heads} × {head_size}"],
        ["Attention window of local layers", f"{config.local_attention} tokens"],
        ["RoPE theta, global / local", f"{number(config.global_rope_theta)} / {number(config.local_rope_theta)}"],
        ["Vocabulary size", number(config.vocab_size)],
        ["Mask token", code(facts.tokenizer.get("mask_token") or "")],
        ["Maximum input length", f"{number(facts.max_length or config.max_position_embeddings)} tokens"],
        ["Weights", f"safetensors, {facts.dtype}"],
    ]
    return table(["", ""], [row for row in rows if row[1]], numbers=1)


def data(facts: ModelFacts) -> Markdown | None:
    """Sources of the training data with their share or size."""
    rows: list[list[Any]] = []
    for stage in facts.stages:
        sources = stage.get("data", [])
        total = sum(source.get("weight", 0) for source in sources)
        for source in sources:
            subset = ", ".join(str(source[key]) for key in ("config", "split", "revision") if source.get(key))
            share = f"{source['weight'] / total:.1%}" if total and "weight" in source else ""
            size = f"{in_words(source['tokens'])} tokens" if source.get("tokens") else ""
            rows.append([stage["stage"], code(source["name"]), subset, share, size])
    return table(["Stage", "Source", "Subset", "Share", "Size"], rows) if rows else None


def training(facts: ModelFacts) -> Markdown | None:
    """Hyperparameters and compute, one column per stage."""
    columns = [_stage(stage) for stage in facts.stages]
    if not columns:
        return None
    names = [name for name in columns[0] if any(column[name] for column in columns)]
    rows = [[name, *(column[name] for column in columns)] for name in names]
    return table(["", *(stage["stage"] for stage in facts.stages)], rows)


def recipes(facts: ModelFacts) -> list[tuple[str, Markdown]]:
    """Name and decisive recipe keys of each stage, except recipes that come with the package."""
    return [
        (stage["stage"], fence(yaml.safe_dump(dict(stage["recipe"]), allow_unicode=True, sort_keys=False), "yaml"))
        for stage in facts.stages
        if stage["recipe"] and "recipe_name" not in stage
    ]


def last_value(stage: Mapping[str, Any], curve: str) -> float | None:
    """Last logged value of a curve; None if it was not logged."""
    values = stage.get("curve", {}).get(curve, [])
    return next((value for value in reversed(values) if value is not None), None)


def share_held_out_tokens(facts: ModelFacts) -> bool:
    """Whether all stages were validated on the same masked tokens: only then is the majority baseline the same."""
    return len({last_value(stage, "eval_baseline_accuracy") for stage in facts.stages}) == 1


def results(facts: ModelFacts, by_subset: bool = False) -> Markdown | None:
    """One row per metric, on whole datasets or on subsets such as categories or lengths.

    Raises:
        UsageError: two different results for the same measurement.
    """
    rows = _result_rows(facts, by_subset)
    if not rows:
        return None
    board = leaderboard(rows)
    lines = []
    for column in board.columns:
        cell = board.cells[facts.name, column]
        seeds = [row for row in rows if column_of(row) == column]
        interval = ""
        if len(seeds) == 1 and seeds[0].low is not None and seeds[0].high is not None:
            interval = f"{column.format(seeds[0].low)} to {column.format(seeds[0].high)}"
        # Values read off a plot are not shown with more digits than could be read.
        read_off = any(row.settings.get(READ_OFF) for row in seeds)
        lines.append(
            [
                column.task,
                f"{column.data}, {column.split}" if column.split else column.data,
                f"{column.examples:,}" if column.examples else "",
                column.protocol,
                column.heading[1],
                f"≈ {cell.mean:g}" if read_off else board.text(facts.name, column),
                interval,
                column.format(cell.baselines[0]) if cell.baselines else "",
            ]
        )
    heads = ["Task", "Dataset", "Examples", "Protocol", "Metric", "Value", "95% interval", "Baseline"]
    return table(heads, lines, numbers=3)


def result_settings(facts: ModelFacts) -> list[str]:
    """Dataset, protocol and settings of each evaluation after the training."""
    lines: dict[str, None] = {}
    for row in facts.rows:
        if row.value is None or facts.is_own(row):
            continue
        settings = {key: value for key, value in public_settings(row).items() if key not in ("context", READ_OFF)}
        revision = f" ({row.dataset_revision[:15]})" if row.dataset_revision else ""
        line = f"{row.task}: {row.dataset}{revision}, {row.protocol} protocol"
        shown = ", ".join(f"{key.replace('_', ' ')} {str(value)[:100]}" for key, value in sorted(settings.items()))
        lines[f"{line}; {shown}" if shown else line] = None
    return list(lines)


def public_settings(row: Row) -> dict[str, Any]:
    """Settings and selected grid point of a result, without empty values and local directories."""
    selection = {name: getattr(row, name) for name in _SELECTION if getattr(row, name)}
    settings = {**row.settings, **selection}
    return {key: without_directories(value) for key, value in settings.items() if value not in (None, [])}


def checkpoints(facts: ModelFacts) -> Markdown | None:
    """Revisions of the repository."""
    rows = [
        [code(checkpoint.revision), checkpoint.stage, f"{checkpoint.step:,}", _count(checkpoint.tokens)]
        for checkpoint in facts.checkpoints
    ]
    return table(["Revision", "Stage", "Step", "Tokens in stage"], rows, numbers=2) if rows else None


def evaluated_checkpoints(facts: ModelFacts) -> Markdown | None:
    """Key metrics of the checkpoints, one row per checkpoint."""
    if not facts.evaluated_checkpoints:
        return None
    heads = ["Stage", "Step", "Tokens", "Held-out loss ↓", "Held-out accuracy ↑"]
    lines: list[list[Any]] = [
        [
            checkpoint.stage,
            f"{checkpoint.step:,}",
            _count(checkpoint.tokens),
            "" if checkpoint.held_out_loss is None else f"{checkpoint.held_out_loss:.3f}",
            "" if checkpoint.held_out_accuracy is None else f"{100 * checkpoint.held_out_accuracy:.1f}",
        ]
        for checkpoint in facts.evaluated_checkpoints
    ]
    highlights = [(task, value) for task in dict.fromkeys(task_classes().values()) for value in task.highlights]
    for task, highlight in highlights:
        board = leaderboard(
            replace(row, model=checkpoint.name, revision="", subset="")
            for checkpoint in facts.evaluated_checkpoints
            for row in checkpoint.rows
            if row.task == task.name and highlight.matches(row)
        )
        for column in board.columns:
            _, metric, *distinction = board.heading(column)
            heads.append(" ".join([highlight.label, metric[-1], *(f"({part})" for part in distinction)]))
            for line, checkpoint in zip(lines, facts.evaluated_checkpoints, strict=True):
                line.append(board.text(checkpoint.name, column))
    return table(heads, lines, numbers=len(heads) - 1)


def estimates(finding: Finding) -> Markdown:
    """Figures of a finding."""
    rows = [
        [
            estimate.name,
            f"{estimate.value:.4g}",
            "" if estimate.low is None else f"{estimate.low:.4g} to {estimate.high:.4g}",
            f"{estimate.examples:,}",
        ]
        for estimate in finding.estimates
    ]
    return table(["Estimate", "Value", "95% interval", "Sample size"], rows, numbers=3)


def examples(facts: ModelFacts) -> Markdown | None:
    """Fill-mask predictions, with the mask token that the model's own pipeline accepts."""
    mask = str(facts.tokenizer.get("mask_token") or "[MASK]")
    rows = [
        [
            code(example.text.replace("[MASK]", mask)),
            Markdown(", ".join(f"{code(token)} {share:.1%}" for token, share in example.answers)),
        ]
        for example in facts.examples
    ]
    return table(["Text", "Top predictions"], rows) if rows else None


def _result_rows(facts: ModelFacts, by_subset: bool) -> list[Row]:
    """Rows under the model's public name; repeated results are merged."""
    rows: dict[tuple[Column, int], Row] = {}
    for row in facts.rows:
        # Subsets of a comparison with another tokenizer would repeat those of fill-mask.
        repeated = by_subset and row.task == FillMaskPublishedTokenizer.name
        if row.value is None or bool(row.subset) != by_subset or repeated or facts.is_own(row):
            continue
        task = f"{row.task}, {row.subset}" if by_subset else row.task
        public = replace(row, model=facts.name, revision="", task=task, subset="")
        key = (column_of(public), public.seed)
        if key in rows and rows[key].value != public.value:
            raise UsageError(
                f"two different results for {row.task} {row.metric} on {row.dataset} ({row.protocol} protocol, seed "
                f"{row.seed}): they belong to different weights. Give only the results of this model."
            )
        rows[key] = public
    return list(rows.values())


def _stage(stage: Mapping[str, Any]) -> dict[str, str]:
    """Hyperparameters, counts and compute of a stage; empty if unknown."""
    recipe, hardware, kilograms = stage["recipe"], stage.get("hardware") or {}, stage.get("emissions_kg")
    length = recipe.get("sequence_length")
    packing = _PACKING.get(recipe.get("packing")), _LONG_DOCUMENTS.get(recipe.get("long_documents"))
    precision = "bfloat16" if recipe.get("bf16") else "float16" if recipe.get("fp16") else ""
    devices = f"{hardware['devices']} × {hardware['device']}" if hardware else ""
    if "cores" in hardware:
        processes = f", {hardware['devices']} processes" if hardware["devices"] > 1 else ""
        devices = f"{hardware['device']}, {hardware['cores']} cores{processes}"
    emissions = ""
    if kilograms is not None:
        emissions = f"{kilograms:,.1f} kg" if kilograms >= 10 else f"{1000 * kilograms:,.3g} g"
    return {
        "Sequence length": "" if length is None else f"{number(length)} tokens",
        "Embedding initialization": "co-occurrence counts" if recipe.get("init_embeddings") == "counted" else "",
        "Masking": _masking(recipe),
        "Sequence packing": ", ".join(filter(None, packing)),
        "Learning rate": learning_rate(recipe),
        "Optimizer": optimizer(recipe),
        "Precision": f"{precision} mixed precision" if precision else "float32" if "bf16" in recipe else "",
        **{name: _count(stage.get(key)) for name, key in _COUNTS.items()},
        "Hardware": devices,
        "Training time": duration(stage["seconds"]) if stage.get("seconds") else "",
        "FLOPs": f"{stage['flops']:.3g}" if stage.get("flops") else "",
        "CO₂ equivalent": emissions,
        "Software": ", ".join(f"{name} {version}" for name, version in stage.get("versions", {}).items()),
    }


def _count(count: Any) -> str:
    return "" if count is None else f"{int(count):,}"


def _masking(recipe: Mapping[str, Any]) -> str:
    if "mlm_probability" not in recipe:
        return ""
    share = f"{percent(recipe['mlm_probability'])} of tokens"
    if recipe.get("final_mlm_probability"):
        share += f", {percent(recipe['final_mlm_probability'])} during learning-rate decay"
    masked, random = recipe.get("mask_share"), recipe.get("random_share")
    if masked is None or random is None:
        return share
    kept = max(0.0, 1 - masked - random)
    return f"{share} ({percent(masked)} mask, {percent(random)} random, {percent(kept)} unchanged)"


def learning_rate(recipe: Mapping[str, Any]) -> str:
    """Learning rate with its schedule; empty if unknown."""
    if "learning_rate" not in recipe:
        return ""
    parts = [number(recipe["learning_rate"]), str(recipe.get("lr_scheduler_type") or "")]
    decay = (recipe.get("lr_scheduler_kwargs") or {}).get("num_decay_steps")
    for name, steps in (("warmup", recipe.get("warmup_steps")), ("decay", decay)):
        if steps:
            parts.append(f"{name} {f'{percent(steps)} of' if steps < 1 else number(steps)} steps")
    return ", ".join(filter(None, parts))


def optimizer(recipe: Mapping[str, Any]) -> str:
    """Optimizer with its settings; empty if unknown."""
    parts = [str(recipe["optim"])] if "optim" in recipe else []
    if "adam_beta1" in recipe and "adam_beta2" in recipe:
        parts.append(f"betas {number(recipe['adam_beta1'])} and {number(recipe['adam_beta2'])}")
    if "adam_epsilon" in recipe:
        parts.append(f"epsilon {number(recipe['adam_epsilon'])}")
    if "weight_decay" in recipe:
        scope = " on all parameters" if recipe.get("decay_norms_and_biases") else ""
        parts.append(f"weight decay {number(recipe['weight_decay'])}{scope}")
    if recipe.get("max_grad_norm"):
        parts.append(f"gradient clipping {number(recipe['max_grad_norm'])}")
    return ", ".join(parts)


def without_directories(value: Any) -> Any:
    """Settings with the last part of each local path."""
    if isinstance(value, Mapping):
        return {key: without_directories(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [without_directories(item) for item in value]
    if isinstance(value, str) and is_local_path(value):
        return value.rstrip("/").rpartition("/")[2]
    return value

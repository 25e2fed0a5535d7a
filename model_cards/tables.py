"""The tables of a model card; a row or table without facts is left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from shlex import quote
from typing import TYPE_CHECKING, Any

import yaml

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.evaluation.report.leaderboard import Cell, Column, Leaderboard, column_of, leaderboard
from llm_jp_modernbert.evaluation.report.results import READ_OFF
from llm_jp_modernbert.evaluation.tasks.fill_mask import FillMaskPublishedTokenizer

from . import commands
from .markdown import Markdown, code, fence, table, text
from .metadata import shown_settings
from .numbers import about as about_count
from .numbers import duration, percent, setting

if TYPE_CHECKING:
    from llm_jp_modernbert.evaluation.report.results import Row

    from .about import About, Finding

_TELLING = {
    ("fill-mask", "improved", "top1_accuracy", ""): "Fill-mask top-1",
    ("pseudo-perplexity", "improved", "pseudo_perplexity", "context-1024"): "Pseudo-perplexity at 1,024 tokens",
    ("pseudo-perplexity", "improved", "pseudo_perplexity", "context-8192"): "Pseudo-perplexity at 8,192 tokens",
    ("pseudo-perplexity", "paper", "median_pseudo_perplexity", ""): "Median pseudo-perplexity, paper's protocol",
    ("alignment-uniformity", "improved", "alignment", ""): "Alignment",
    ("alignment-uniformity", "improved", "uniformity", ""): "Uniformity",
    ("similarity", "improved", "auc", ""): "Similarity AUC",
    ("retrieval", "improved", "ndcg@10", ""): "Retrieval nDCG@10",
    ("jsts", "improved", "spearman", ""): "JSTS Spearman",
    ("jsts", "paper", "pearson", ""): "JSTS Pearson, paper's protocol",
}
"""Of each evaluation the figures that tell most, and what the table of the training's states calls them."""


def architecture(about: About, parts: Mapping[str, int]) -> Markdown:
    """Shape and parameters."""
    config = about.config
    layers, kinds = int(config["num_hidden_layers"]), list(config.get("layer_types") or [])
    full = [number for number, kind in enumerate(kinds) if kind == "full_attention"]
    heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
    rope = config.get("rope_parameters") or {}
    thetas = [
        (rope.get(kind) or {}).get("rope_theta", config.get(f"{old}_rope_theta"))
        for kind, old in (("full_attention", "global"), ("sliding_attention", "local"))
    ]
    every = config.get("global_attn_every_n_layers")
    attention = (
        f"{len(full)} global, {layers - len(full)} local" if kinds else f"every {every}th global" if every else ""
    )
    rows: list[list[Any]] = [
        ["Model type", code(config["model_type"])],
        ["Parameters", f"{sum(parts.values()):,}"],
        *([f"… {name.lower()}", f"{count:,}"] for name, count in parts.items()),
        ["Layers", f"{layers} ({attention})" if attention else layers],
        ["Hidden size", setting(hidden)],
        ["Intermediate size (GeGLU)", setting(config["intermediate_size"])],
        ["Attention heads", f"{heads} × {hidden // heads}"],
        ["Window of the local layers", f"{config['local_attention']} tokens" if "local_attention" in config else None],
        ["RoPE theta, global / local", " / ".join(map(setting, thetas)) if None not in thetas else None],
        ["Vocabulary", setting(config["vocab_size"])],
        ["Mask token", code(about.tokenizer.get("mask_token") or "")],
        ["Longest input", f"{setting(config['max_position_embeddings'])} tokens"],
        ["Weights", f"safetensors, {about.dtype}"],
    ]
    return table(["", ""], [row for row in rows if row[1] not in (None, "")], numbers=1)


def data(about: About) -> Markdown | None:
    """The sources of the training texts with their shares."""
    rows: list[list[Any]] = []
    for stage in about.stages:
        sources = stage.get("data", [])
        whole = sum(source.get("weight", 0) for source in sources)
        for source in sources:
            named = ", ".join(
                str(source[key]) for key in ("config", "split", "revision") if source.get(key) not in (None, "")
            )
            share = f"{source['weight'] / whole:.1%}" if whole and "weight" in source else ""
            size = f"{about_count(source['tokens'])} tokens" if source.get("tokens") else ""
            rows.append([stage["stage"], code(source["name"]), named, share or size])
    if not rows:
        return None
    return _without_empty(["Stage", "Source", "Part", "Share" if any("%" in r[3] for r in rows) else "Size"], rows)


def training(about: About) -> Markdown | None:
    """A column for each stage."""
    if not about.stages:
        return None
    lines: list[tuple[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Any]]] = [
        ("Sequence length", lambda stage, recipe: _tokens(recipe.get("sequence_length"))),
        ("Optimizer steps", lambda stage, recipe: _number(stage.get("steps"))),
        ("Batch, rows", lambda stage, recipe: _number(stage.get("rows_per_step"))),
        ("Tokens read", lambda stage, recipe: _number(stage.get("tokens"))),
        ("… had they been padded", lambda stage, recipe: _number(stage.get("padded_tokens"))),
        ("Tokens predicted", lambda stage, recipe: _number(stage.get("labels"))),
        ("Documents", lambda stage, recipe: _number(stage.get("documents"))),
        ("Characters", lambda stage, recipe: _number(stage.get("characters"))),
        ("Token embeddings", lambda stage, recipe: _embeddings(recipe)),
        ("Masked tokens", lambda stage, recipe: _masking(recipe)),
        ("Composition of rows", lambda stage, recipe: _rows(recipe)),
        ("Learning rate", lambda stage, recipe: _learning_rate(recipe)),
        ("Optimizer", lambda stage, recipe: _optimizer(recipe)),
        ("Precision", lambda stage, recipe: _precision(recipe)),
        ("Hardware", lambda stage, recipe: _hardware(stage.get("hardware"))),
        ("Time", lambda stage, recipe: duration(stage["seconds"]) if stage.get("seconds") else None),
        ("Floating-point operations", lambda stage, recipe: f"{stage['flops']:.3g}" if stage.get("flops") else None),
        ("CO₂ equivalent", lambda stage, recipe: _emissions(stage.get("emissions_kg"))),
        ("Software", lambda stage, recipe: ", ".join(f"{k} {v}" for k, v in stage.get("versions", {}).items())),
    ]
    rows = [[name, *(value(stage, stage.get("recipe", {})) or "" for stage in about.stages)] for name, value in lines]
    return table(["", *(stage["stage"] for stage in about.stages)], [row for row in rows if any(row[1:])])


def recipes(about: About) -> list[tuple[str, Markdown]]:
    """Of each stage the keys of its recipe that decide, as YAML, unless it comes with the package."""
    return [
        (stage["stage"], fence(yaml.safe_dump(dict(stage["recipe"]), allow_unicode=True, sort_keys=False), "yaml"))
        for stage in about.stages
        if stage.get("recipe") and "recipe_name" not in stage
    ]


def results(about: About, parts: bool = False) -> Markdown | None:
    """The figures, one a row.

    Args:
        about: the facts.
        parts: figures of parts of the data, such as categories or lengths, in the place of those of all of it.

    Raises:
        UsageError: two results for one figure.
    """
    rows = _rows_of(about, parts)
    if not rows:
        return None
    found = leaderboard(rows)
    by_column = {column: [row for row in rows if column_of(row) == column] for column in found.columns}
    lines: list[list[Any]] = []
    for column in found.columns:
        cell = found.cells[about.name, column]
        of_column = by_column[column]
        interval = ""
        if len(of_column) == 1 and of_column[0].low is not None and of_column[0].high is not None:
            interval = f"{_figure(column, of_column[0].low)} to {_figure(column, of_column[0].high)}"
        guess = _figure(column, cell.baselines[0]) if cell.baselines else ""
        value = found.text(about.name, column)
        if any(row.settings.get(READ_OFF) for row in of_column):
            # No more digits than could be read.
            value = f"≈ {cell.mean:g}"
        examples = f"{column.examples:,}" if column.examples else ""
        lines.append(
            [
                column.task,
                text(column.dataset) + (f", {text(column.split)}" if column.split else ""),
                examples,
                column.protocol,
                column.heading[1],
                value,
                interval,
                guess,
            ]
        )
    for line in lines:
        line[1] = Markdown(line[1])
    heads = ["Task", "Data", "Examples", "Protocol", "Figure", "Value", "95% interval", "Simplest guess"]
    return _without_empty(heads, lines, numbers=3)


def several_seeds(about: About) -> bool:
    """Whether some figure is a mean over seeds."""
    seeds: dict[Column, set[int]] = {}
    for row in (*_rows_of(about, parts=False), *_rows_of(about, parts=True)):
        seeds.setdefault(column_of(row), set()).add(row.seed)
    return any(len(found) > 1 for found in seeds.values())


def result_notes(about: About) -> list[str]:
    """How each evaluation was made: what its figures have in common."""
    notes: dict[str, None] = {}
    for row in about.rows:
        if row.value is None:
            continue
        settings = {key: value for key, value in shown_settings(row).items() if key != READ_OFF}
        told = ", ".join(f"{key} {_short(value)}" for key, value in sorted(settings.items()))
        revision = f" ({row.dataset_revision[:15]})" if row.dataset_revision else ""
        note = f"{row.task}: {row.dataset}{revision}, {row.protocol} protocol"
        notes[f"{note}; {told}" if told else note] = None
    return list(notes)


def checkpoints(about: About) -> Markdown | None:
    """Revisions of the repository."""
    rows: list[list[Any]] = [
        [code(one.revision), one.stage, f"{one.step:,}", _number(one.tokens) or ""] for one in about.checkpoints
    ]
    return _without_empty(["Revision", "Stage", "Step", "Tokens of the stage"], rows, numbers=2) if rows else None


def states(about: About) -> Markdown | None:
    """States of the training, a row each, with the figures of each evaluation that tell most."""
    if not about.states:
        return None
    heads = ["Stage", "Step", "Tokens read", "Held-out loss ↓", "Held-out accuracy ↑"]
    lines: list[list[Any]] = [
        [
            one.stage,
            f"{one.step:,}",
            _number(one.tokens) or "",
            "" if one.held_out_loss is None else f"{one.held_out_loss:.3f}",
            "" if one.held_out_accuracy is None else f"{100 * one.held_out_accuracy:.1f}",
        ]
        for one in about.states
    ]
    for telling, name in _TELLING.items():
        rows = [
            replace(row, model=one.name, revision="", subset="")
            for one in about.states
            for row in one.rows
            if (row.task, row.protocol, row.metric, row.subset) == telling and row.split != "dev"
        ]
        board = leaderboard(rows)
        for column in board.columns:
            _, figure, *told = board.heading(column)
            heads.append(" ".join([name, figure[-1], *(f"({part})" for part in told)]))
            for line, one in zip(lines, about.states, strict=True):
                line.append(board.text(one.name, column))
    return _without_empty(heads, lines, numbers=len(heads) - 1)


def findings(about: About) -> list[tuple[Finding, Markdown]]:
    """Each finding with its figures."""
    found = []
    for one in about.findings:
        rows = [
            [
                estimate.name,
                f"{estimate.value:.4g}",
                "" if estimate.low is None else f"{estimate.low:.4g} to {estimate.high:.4g}",
                f"{estimate.examples:,}",
            ]
            for estimate in one.estimates
        ]
        found.append((one, table(["", "Value", "95% interval", "Examples"], rows, numbers=3)))
    return found


def examples(about: About) -> Markdown | None:
    """Filled masks."""
    rows: list[list[Any]] = [
        [code(one.text), Markdown(", ".join(f"{code(answer)} {share:.1%}" for answer, share in one.answers))]
        for one in about.examples
    ]
    return table(["Text", "Likeliest tokens"], rows) if rows else None


def reproduction(about: About) -> Markdown | None:
    """The commands that made the model and its figures, where they are known; else such as make and measure one."""
    lines = list(about.commands) or _suggested(about)
    if any(f" {commands.DATA}" in line for line in lines):
        lines.insert(0, f"# {commands.DATA}: the folder of the evaluations' data")
    return fence("\n".join(["pip install 'llm-jp-modernbert[eval]'", *lines]), "bash") if lines else None


def _suggested(about: About) -> list[str]:
    """Commands with the same recipes and the same settings of the evaluations."""
    name, lines, before = quote(about.name), [], None
    for number, stage in enumerate(about.stages):
        if number == len(about.stages) - 1 and about.recipe_file:
            recipe = quote(about.recipe_file)
            lines.append(f"hf download {name} {recipe} --local-dir .")
        elif "recipe_name" in stage:
            recipe = quote(stage["recipe_name"])
        else:
            recipe = quote(f"{stage['stage']}.yaml")
            lines.append(f"# {recipe}: the recipe of that stage above")
        start = f" init_from={before}" if before else ""
        before = quote(f"runs/{stage['stage']}")
        lines.append(f"llm-jp-modernbert pretrain {recipe}{start} \\")
        lines.append(f"    train_data=YOUR_TEXTS tokenizer={name} output_dir={before}")
    measured = [replace(row, model=about.name) for row in about.rows if row.value is not None]
    return [*lines, *commands.evaluations(measured)]


def _rows_of(about: About, parts: bool) -> list[Row]:
    rows: dict[tuple[Column, int], Row] = {}
    for row in about.rows:
        if row.value is None or bool(row.subset) != parts or (parts and row.task == FillMaskPublishedTokenizer.name):
            continue
        # The table is of one model, whatever the path it was measured at.
        task = f"{row.task}, {row.subset}" if parts else row.task
        one = replace(row, model=about.name, revision="", task=task, subset="")
        key = (column_of(one), one.seed)
        if key in rows and rows[key].value != one.value:
            raise UsageError(
                f"two results for {row.task} {row.metric} on {row.dataset} ({row.protocol}, seed {row.seed}), "
                "so they are of two states of the model. Give those of this one."
            )
        rows[key] = one
    return list(rows.values())


def _figure(column: Column, value: float) -> str:
    """A figure as the leaderboard writes it."""
    return Leaderboard([column], [""], {("", column): Cell((value,), ())}).text("", column)


def _without_empty(heads: list[Any], rows: list[list[Any]], numbers: int = 0) -> Markdown:
    kept = [place for place in range(len(heads)) if any(str(row[place]) for row in rows)]
    numbers = sum(place >= len(heads) - numbers for place in kept)
    return table([heads[place] for place in kept], [[row[place] for place in kept] for row in rows], numbers)


def _tokens(count: Any) -> str | None:
    return None if count is None else f"{setting(count)} tokens"


def _number(count: Any) -> str | None:
    return None if count is None else f"{int(count):,}"


def _embeddings(recipe: Mapping[str, Any]) -> str | None:
    return "begun from counts of neighbouring tokens" if recipe.get("init_embeddings") == "counted" else None


def _masking(recipe: Mapping[str, Any]) -> str | None:
    if "mlm_probability" not in recipe:
        return None
    share = percent(recipe["mlm_probability"])
    if recipe.get("final_mlm_probability"):
        share += f", at the end {percent(recipe['final_mlm_probability'])}"
    replaced, random = recipe.get("mask_share"), recipe.get("random_share")
    if replaced is None or random is None:
        return share
    kept = max(0.0, 1 - replaced - random)
    return f"{share} ({percent(replaced)} mask, {percent(random)} random, {percent(kept)} kept)"


def _rows(recipe: Mapping[str, Any]) -> str | None:
    if "packing" not in recipe:
        return None
    packed = "packed best-fit, documents apart" if recipe["packing"] == "best_fit" else "one document each"
    cut = {"cut": "long documents in pieces", "truncate": "long documents cut off"}.get(
        recipe.get("long_documents", "")
    )
    return f"{packed}, {cut}" if cut else packed


def _learning_rate(recipe: Mapping[str, Any]) -> str | None:
    if "learning_rate" not in recipe:
        return None
    told = [setting(recipe["learning_rate"])]
    if recipe.get("lr_scheduler_type"):
        told.append(str(recipe["lr_scheduler_type"]))
    if recipe.get("warmup_steps"):
        told.append(f"warm-up {_steps(recipe['warmup_steps'])}")
    given = recipe.get("lr_scheduler_kwargs") or {}
    if given.get("num_decay_steps"):
        told.append(f"decay {_steps(given['num_decay_steps'])}")
    return ", ".join(told)


def _steps(amount: float) -> str:
    return percent(amount) if 0 < amount < 1 else f"{setting(amount)} steps"


def _optimizer(recipe: Mapping[str, Any]) -> str | None:
    told = [str(recipe["optim"])] if "optim" in recipe else []
    if "adam_beta1" in recipe and "adam_beta2" in recipe:
        told.append(f"betas {setting(recipe['adam_beta1'])} and {setting(recipe['adam_beta2'])}")
    if "adam_epsilon" in recipe:
        told.append(f"epsilon {setting(recipe['adam_epsilon'])}")
    if "weight_decay" in recipe:
        on_all = ", of all parameters" if recipe.get("decay_norms_and_biases") else ""
        told.append(f"weight decay {setting(recipe['weight_decay'])}{on_all}")
    if recipe.get("max_grad_norm"):
        told.append(f"clipped at {setting(recipe['max_grad_norm'])}")
    return ", ".join(told) or None


def _precision(recipe: Mapping[str, Any]) -> str | None:
    if "bf16" not in recipe and "fp16" not in recipe:
        return None
    return "bfloat16, mixed" if recipe.get("bf16") else "float16, mixed" if recipe.get("fp16") else "float32"


def _hardware(found: Mapping[str, Any] | None) -> str | None:
    if not found:
        return None
    if "cores" in found:
        return f"{found['device']}, {found['cores']} cores" + (
            f", {found['devices']} processes" if found["devices"] > 1 else ""
        )
    return f"{found['devices']} × {found['device']}"


def _emissions(kilograms: float | None) -> str | None:
    if kilograms is None:
        return None
    return f"{kilograms:,.1f} kg" if kilograms >= 10 else f"{1000 * kilograms:,.3g} g"


def _short(value: Any) -> str:
    shown = (
        yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6).removesuffix("...\n").strip()
    )
    return shown if len(shown) <= 100 else shown[:99] + "…"

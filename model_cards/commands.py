"""Shell commands that reproduce a model and its results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, replace
from shlex import quote
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.references import is_repository
from llm_jp_modernbert.evaluation.tasks.fill_mask import FillMask
from llm_jp_modernbert.evaluation.tasks.registry import task_class
from llm_jp_modernbert.evaluation.tasks.task import Task
from llm_jp_modernbert.training.finetuning.options import FinetuneOptions
from llm_jp_modernbert.training.retrieval.options import (
    EmbedderOptions,
    LateInteractionOptions,
    RerankerOptions,
    RetrievalOptions,
    SparseOptions,
)

from .formatting import Markdown, fence
from .tables import without_directories

if TYPE_CHECKING:
    from llm_jp_modernbert.core.results import Row
    from llm_jp_modernbert.training.finetuning.record import Part
    from llm_jp_modernbert.training.run.adaptation import Record as AdaptationRecord

    from .facts import ModelFacts

# Placeholder for the folder of evaluation data, whose path differs between machines.
_DATA = "DATA"
_DEFAULTS = {field.name: field.default for field in fields(FinetuneOptions)}
# Options and arguments of fine-tuning that affect the model.
_OPTIONS = ("patience", "class_weights", "layer_decay", "lora_rank")
_ARGUMENTS = (
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay"),
    *("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps"),
)

_RETRIEVAL_OPTIONS: dict[str, type[RetrievalOptions]] = {
    options.kind: options for options in (EmbedderOptions, RerankerOptions, SparseOptions, LateInteractionOptions)
}
# Options of these that the record states, or that do not affect the model.
_NOT_DECISIVE = ("base", "overrides", "train", "validation", "test", "out", "tokens_per_batch")


def reproduction(facts: ModelFacts) -> Markdown | None:
    """The recorded commands, or commands derived from recipes and results; None if there are neither."""
    lines = list(facts.commands)
    if not lines:
        others = [row for row in facts.rows if row.value is not None and not facts.is_own(row)]
        measured = evaluations(replace(row, model=facts.name) for row in others)
        lines = [*_pretraining(facts), *_vocabulary(facts), *_finetuning(facts), *_retrieval(facts), *measured]
    if any(f" {_DATA}" in line for line in lines):
        lines.insert(0, f"# {_DATA}: folder with the {'' if facts.trained else 'evaluation '}data")
    # The extra eval includes finetune.
    extras = ["retrieval"] if facts.retrieval else []
    if facts.record and all(map(facts.is_own, facts.rows)):
        extras.append("finetune")
    elif not facts.retrieval or not all(map(facts.is_own, facts.rows)):
        extras.append("eval")
    extra = ",".join(extras)
    return fence("\n".join([f"pip install 'llm-jp-modernbert[{extra}]'", *lines]), "bash") if lines else None


def evaluations(rows: Iterable[Row]) -> list[str]:
    """Derive `evaluate` commands from results; measurements with equal settings share one command."""
    by_options: dict[tuple[str, ...], dict[str, dict[str, None]]] = {}
    for row in rows:
        tasks = by_options.setdefault(tuple(_options(row)), {}).setdefault(row.model, {})
        tasks[row.selector or row.task] = None
    commands = []
    for options, by_model in by_options.items():
        by_tasks: dict[tuple[str, ...], list[str]] = {}
        for model, tasks in by_model.items():
            by_tasks.setdefault(tuple(tasks), []).append(model)
        for tasks_of_models, models in by_tasks.items():
            names = " ".join(quote(model) for model in models)
            arguments = " ".join(["--tasks", quote(",".join(tasks_of_models)), *options])
            commands.append(f"llm-jp-modernbert evaluate {names} \\\n    {arguments}")
    return commands


def _pretraining(facts: ModelFacts) -> list[str]:
    name, lines, previous = quote(facts.name), [], None
    # A changed vocabulary is not that of the training.
    tokenizer = "BASE_TOKENIZER" if facts.vocabulary else name
    if facts.is_continued:
        previous = quote(facts.start or "BASE_MODEL")
    for index, stage in enumerate(facts.stages):
        if index == len(facts.stages) - 1 and facts.adaptation:
            base = previous or quote(facts.base_model or "BASE_MODEL")
            lines += _adaptation(facts.adaptation, base, stage["recipe"])
            continue
        if index == len(facts.stages) - 1 and facts.recipe_file:
            recipe = quote(facts.recipe_file)
            lines.append(f"hf download {name} {recipe} --local-dir .")
        elif "recipe_name" in stage:
            recipe = quote(stage["recipe_name"])
        else:
            recipe = quote(f"{stage['stage']}.yaml")
            lines.append(f"# {recipe}: the recipe of this stage, shown above")
        start = f" init_from={previous}" if previous else ""
        previous = quote(f"runs/{stage['stage']}")
        lines.append(f"llm-jp-modernbert pretrain {recipe}{start} \\")
        lines.append(f"    train_data=YOUR_TEXTS tokenizer={tokenizer} output_dir={previous}")
    return lines


def _adaptation(record: AdaptationRecord, base: str, recipe: Mapping[str, Any]) -> list[str]:
    texts = {"train": record["train"], "replay": record["replay"]}
    data = [
        f"--{option} {quote(name if is_repository(name) else f'{_DATA}/{name}')}"
        for option, of_option in texts.items()
        for name in (of_option["name"].split("+") if of_option else ())
    ]
    share = [f"--replay-share {record['replay']['share']:g}"] if record["replay"] else []
    settings = [*share, f"--epochs {record['epochs']:g}", f"--seed {record['seed']}"]
    keys = ("learning_rate", "mlm_probability", "sequence_length", "tokens_per_batch")
    overrides = [f"{key}={recipe[key]:.10g}" for key in keys if recipe.get(key) is not None]
    return [f"llm-jp-modernbert adapt {base} {' '.join(overrides)} \\", f"    {' '.join(data + settings)}"]


def _vocabulary(facts: ModelFacts) -> list[str]:
    record = facts.vocabulary
    if record is None:
        return []
    trained = f"runs/{facts.stages[-1]['stage']}" if facts.stages else "BASE_MODEL"
    name, base = record["texts"]["name"], quote(facts.base_model or trained)
    data = " ".join(f"--texts {quote(part if is_repository(part) else f'{_DATA}/{part}')}" for part in name.split("+"))
    size = (
        f"--size {record['after']['tokens']}" if record["change"] == "trim" else f"--new-tokens {len(record['terms'])}"
    )
    return [f"llm-jp-modernbert vocabulary {record['change']} {base} \\", f"    {data} {size} --out MODEL"]


def _finetuning(facts: ModelFacts) -> list[str]:
    record = facts.record
    if record is None:
        return []
    data = _data_options(record["parts"])
    columns = [
        f"--{role.replace('_', '-')}-column {quote(column)}"
        for role, names in record["columns"].items()
        for column in (names.split(", ") if role == "choice" else [names])
        if f"{role}_column" in _DEFAULTS
    ]
    settings = [f"--seed {record['seeds'][0]['seed']}", f"--seeds {len(record['seeds'])}"] if record["seeds"] else []
    settings += [f"--max-length {record['max_length']}", *(["--lora"] if record["lora"] else [])]
    settings += [
        f"--{name.replace('_', '-')} {quote(str(facts.recipe[name]))}"
        for name in _OPTIONS
        if facts.recipe.get(name, _DEFAULTS[name]) != _DEFAULTS[name]
    ]
    arguments = facts.recipe.get("arguments") or {}
    overrides = [quote(f"{name}={arguments[name]}") for name in _ARGUMENTS if name in arguments]
    lines = [f"llm-jp-modernbert finetune {record['kind']} {quote(facts.base_model or 'BASE_MODEL')}"]
    lines += [" ".join(options) for options in (overrides, data, columns, settings) if options]
    return [" \\\n    ".join(lines)]


def _retrieval(facts: ModelFacts) -> list[str]:
    record = facts.retrieval
    if record is None:
        return []
    options = []
    for option in fields(_RETRIEVAL_OPTIONS[record["kind"]]):
        default = option.default if option.default_factory is MISSING else option.default_factory()
        value = facts.recipe.get(option.name, default)
        if option.name not in _NOT_DECISIVE and value != default:
            given = without_directories(value)
            values = [f"{_DATA}/{name}" for name in given] if option.name == "corpus" else given
            flag = f"--{option.name.replace('_', '-')}"
            options += [f"{flag} {quote(str(item))}" for item in (values if isinstance(values, list) else [values])]
    arguments = facts.recipe.get("arguments") or {}
    overrides = [quote(f"{name}={arguments[name]}") for name in _ARGUMENTS if name in arguments]
    lines = [f"llm-jp-modernbert train-{record['kind']} {quote(facts.base_model or 'BASE_MODEL')}"]
    lines += [" ".join(parts) for parts in (overrides, _data_options(record["parts"]), options) if parts]
    return [" \\\n    ".join(lines)]


def _data_options(parts: Mapping[str, Part]) -> list[str]:
    """The options that name the data; a validation part held out of the training examples has none."""
    names = {part: parts[part]["name"] for part in parts}
    if names.get("validation") == names.get("train"):
        del names["validation"]
    return [
        f"--{part.partition(':')[0]} {quote(name if is_repository(joined) else f'{_DATA}/{name}')}"
        for part, joined in names.items()
        for name in joined.split("+")
    ]


def _options(row: Row) -> list[str]:
    settings = row.settings
    options: list[tuple[str, Any]] = [("--protocol", row.protocol if row.protocol != "default" else None)]
    if row.text_files:
        options += [("--texts", f"{_DATA}/{name}") for name in row.text_files]
    elif row.dataset_revision.startswith("sha256:") and not issubclass(task_class(row.task) or Task, FillMask):
        options.append(("--data-dir", _DATA))
    options += [("--train-file", f"{_DATA}/{name}") for name in row.train_files]
    options += [("--limit", settings.get("limit")), ("--seed", row.seed or None)]
    rates, epochs = ([point[name] for point in row.grid] for name in ("learning_rate", "epochs"))
    options += [("--learning-rate", f"{rate:g}") for rate in dict.fromkeys(rates)]
    options += [("--epochs", number) for number in dict.fromkeys(epochs)]
    options.append(("--pooling", settings.get("pooling") if settings.get("pooling") != "auto" else None))
    options.append(("--dtype", settings.get("dtype")))
    return [f"{name} {quote(str(value))}" for name, value in options if value is not None]

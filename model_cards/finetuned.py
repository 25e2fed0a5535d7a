"""Tables and statements about a model trained for a task: from its record, its recipe and its result rows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from . import tables
from .formatting import Markdown, code, duration, fence, number, table

if TYPE_CHECKING:
    from llm_jp_modernbert.core.results import Row
    from llm_jp_modernbert.training.finetuning.record import Record
    from llm_jp_modernbert.training.retrieval.record import Record as RetrievalRecord

    from .facts import ModelFacts

_METRICS = {
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "f1": "F1",
    "mcc": "Matthews correlation",
    "exact_match": "exact match",
    "has_answer_f1": "F1 of questions with an answer",
    "no_answer_accuracy": "accuracy of questions without an answer",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "r2": "R²",
    "ndcg@10": "nDCG@10",
    "mrr@10": "MRR@10",
    "map@100": "MAP@100",
}
_CORRELATIONS = ("pearson", "spearman")
_SETTINGS = {
    "Batch size": "per_device_train_batch_size",
    "Gradient accumulation steps": "gradient_accumulation_steps",
    "Epochs, at most": "num_train_epochs",
    "Early stopping after epochs without improvement": "patience",
}
CAPTIONS = {
    "confusion": "Confusion matrix",
    "per-class": "Precision, recall and F1 by label",
    "training": "Training loss, and validation metric by epoch",
    "systems": "Scores of this model and the systems it is compared with",
    "matryoshka": "Scores of truncated embeddings",
    "adaptation": "Measurements before and after the adaptation",
    "vocabulary": "Measurements before and after the change of the vocabulary",
}
"""Captions of the plots of a training, by file name."""

# Parts that are measured, in the order of the tables.
_PARTS = {"test": 0, "validation": 1}
# Labels with fewer training examples are named among the limits.
_FEW_EXAMPLES = 20
# Training and test parts with fewer examples are called small.
_SMALL_TRAINING, _SMALL_TEST = 1000, 200
# Labels up to which a confusion matrix fits a page.
_CONFUSION = 12
# Names listed in a sentence.
_NAMES = 8


@dataclass(frozen=True)
class Score:
    """A metric of the published model on one part of the data.

    Attributes:
        metric: readable name.
        low, high: 95 % confidence interval, if known.
        baseline: value of the simplest guess, if known.
        seeds: values of all trainings.
        systems: values of other systems by name.
    """

    part: str
    metric: str
    value: float
    low: float | None
    high: float | None
    baseline: float | None
    seeds: Sequence[float]
    systems: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_above_baseline(self) -> bool:
        """Whether the interval, or else the value, lies above the baseline, if that can be exceeded."""
        lowest = self.value if self.low is None else self.low
        return self.baseline is None or self.baseline >= 1 or lowest > self.baseline


def scores(facts: ModelFacts) -> list[Score]:
    """All metrics of the published model, the selecting metric of the last part first."""
    record = facts.trained
    if record is None:
        return []
    rows = [row for row in facts.rows if facts.is_own(row) and row.seed == record["best_seed"]]
    kept = next((seed for seed in record["seeds"] if seed["seed"] == record["best_seed"]), None)
    found = []
    for part in sorted(record["parts"], key=lambda name: _PARTS.get(name.partition(":")[0], len(_PARTS))):
        values = kept["metrics"].get(part, {}) if kept else {}
        for metric in sorted(values, key=lambda name: name != record["metric"]):
            value, row = values[metric], next((row for row in rows if _is_of(row, part, record, metric)), None)
            if value is None:
                continue
            baseline = row.baseline if row else None
            if baseline is None and metric in _CORRELATIONS and facts.retrieval is None:
                # Undefined for a constant.
                baseline = 0.0
            others = [seed["metrics"].get(part, {}).get(metric) for seed in record["seeds"]]
            found.append(
                Score(
                    part,
                    metric_name(metric),
                    value,
                    *((row.low, row.high) if row else (None, None)),
                    baseline,
                    [other for other in others if other is not None],
                    _systems(facts, part, metric),
                )
            )
    return found


def _is_of(row: Row, part: str, record: Record | RetrievalRecord, metric: str) -> bool:
    """Whether a result is that of a metric on a part; only test datasets can be several."""
    split, _, several = part.partition(":")
    is_dataset = not several or row.dataset == record["parts"][part]["name"]
    return is_dataset and (row.split, row.metric) == (split, metric)


def _systems(facts: ModelFacts, part: str, metric: str) -> dict[str, float]:
    """The values of the baselines of a retrieval model."""
    baselines = facts.retrieval["baselines"] if facts.retrieval else []
    values = {baseline["name"]: baseline["metrics"].get(part, {}).get(metric) for baseline in baselines}
    return {system_name(name): value for name, value in values.items() if value is not None}


def system_name(name: str) -> str:
    """A baseline as written in a sentence."""
    return "BM25" if name == "bm25" else name


def published(facts: ModelFacts) -> list[Row]:
    """Results for the metadata: of the training's own, those of the published model on the last part or the tests."""
    record = facts.trained
    return [
        row
        for row in facts.rows
        if record is None
        or not facts.is_own(row)
        or (row.seed == record["best_seed"] and row.split == list(record["parts"])[-1].partition(":")[0])
    ]


def part_name(part: str) -> str:
    """A part as written in a sentence: `test (NAME)` for one of several test datasets."""
    name, _, dataset = part.partition(":")
    return f"{name} ({dataset})" if dataset else name


def metric_name(name: str) -> str:
    """A metric as written in a sentence."""
    return _METRICS.get(name, name.replace("_", " "))


def share(value: float | None) -> str:
    """A share or correlation as tables show it, multiplied by 100; empty if unknown."""
    return "" if value is None else f"{round(100 * value, 1) + 0.0:.1f}"


def metrics(facts: ModelFacts) -> Markdown | None:
    """Metrics with their intervals, baselines and variation over seeds."""
    measured = scores(facts)
    systems = list(dict.fromkeys(name for score in measured for name in score.systems))
    lines = [
        [
            part_name(score.part),
            score.metric,
            share(score.value),
            "" if score.low is None else f"{share(score.low)} to {share(score.high)}",
            share(score.baseline),
            *(share(score.systems.get(name)) for name in systems),
            f"{share(statistics.mean(score.seeds))} ± {share(statistics.stdev(score.seeds))}"
            if len(score.seeds) > 1
            else "",
        ]
        for score in measured
    ]
    seeds = len(facts.trained["seeds"]) if facts.trained else 0
    heads = ["Part", "Metric", "This model", "95% interval", "Baseline", *systems, f"Mean ± sd, {seeds} seeds"]
    return table(heads, lines, numbers=len(heads) - 2) if lines else None


def label_names(facts: ModelFacts) -> list[str]:
    """Labels of a classifier, or types of entities; empty for other heads."""
    if facts.task == "ner":
        return list(dict.fromkeys(label[2:] for label in facts.labels if label[:2] in ("B-", "I-")))
    return facts.labels if facts.task in ("classification", "multi-label-classification") else []


def class_name(facts: ModelFacts) -> str:
    """Heading of the table of classes."""
    return {"ner": "Entity types", "multiple-choice": "Choices"}.get(facts.task, "Labels")


def labels(facts: ModelFacts) -> Markdown | None:
    """Labels with their counts and scores."""
    if facts.record is None:
        names = label_names(facts)
        return table(["Label"], [[code(name)] for name in names]) if names else None
    parts = list(facts.record["parts"])
    lines = [
        [
            code(label["name"]),
            *(f"{label['counts'].get(part, 0):,}" for part in parts),
            *(share(label.get(name)) for name in ("precision", "recall", "f1")),
            f"{label['threshold']:.4g}" if "threshold" in label else "",
        ]
        for label in facts.record["labels"]
    ]
    counts = [f"In {part}" for part in parts]
    heads = ["Label", *counts, "Precision", "Recall", "F1", "Threshold"]
    return table(heads, lines, numbers=len(heads) - 1) if lines else None


def confusion(facts: ModelFacts) -> Markdown | None:
    """Confusion matrix; None if it does not fit a page."""
    matrix = facts.record["confusion"] if facts.record else None
    if facts.record is None or not matrix or len(matrix) > _CONFUSION:
        return None
    names = [code(label["name"]) for label in facts.record["labels"]]
    # Entities without a counterpart.
    names += [Markdown("none")] * (len(matrix) - len(names))
    lines = [[name, *map(str, line)] for name, line in zip(names, matrix, strict=True)]
    return table(["Correct ╲ predicted", *names], lines, numbers=len(names))


def data(facts: ModelFacts) -> Markdown | None:
    """Parts of the data."""
    if facts.trained is None:
        return None
    lines = [
        [
            part_name(name),
            code(part["name"]),
            code(part["revision"][:15]),
            f"{part['rows']:,}",
            f"{part['tokens']:,}",
            f"{part['longest']:,}",
            f"{part['truncated']:,}",
        ]
        for name, part in facts.trained["parts"].items()
    ]
    heads = ["Part", "Dataset", "Revision", "Examples", "Tokens", "Longest, tokens", "Truncated"]
    return table(heads, lines, numbers=4)


def settings(facts: ModelFacts) -> Markdown | None:
    """Hyperparameters and compute."""
    record = facts.trained
    if record is None:
        return None
    seeds = ", ".join(str(seed["seed"]) for seed in record["seeds"])
    epoch = next((seed["epoch"] for seed in record["seeds"] if seed["seed"] == record["best_seed"]), None)
    options = {**facts.recipe, **(facts.recipe.get("arguments") or {})}
    rank, decay = options.get("lora_rank"), options.get("layer_decay")
    weighted = facts.record is not None and any("weight" in label for label in facts.record["labels"])
    lora = facts.record is not None and facts.record["lora"]
    lines: list[list[Any]] = [
        ["Base model", code(f"{facts.base_model or record['base']}@{record['base_revision'][:15]}")],
        [
            "Trained parameters",
            f"low-rank adapters{f' of rank {rank}' if rank else ''}, merged" if lora else "all",
        ],
        *(_search_settings(facts.retrieval) if facts.retrieval else ()),
        ["Learning rate", tables.learning_rate(options)],
        ["Optimizer", tables.optimizer(options)],
        *([name, number(options[key])] for name, key in _SETTINGS.items() if options.get(key) is not None),
        ["Weights of labels in the loss", "higher for rare labels" if weighted else ""],
        ["Learning rate of a layer relative to the next one", "" if decay in (None, 1) else number(decay)],
        ["Maximum input length", f"{record['max_length']:,} tokens"],
        ["Seeds", f"{seeds}; published: {record['best_seed']}"],
        ["Epoch of the published model", "" if epoch is None else f"{epoch:g}"],
        ["Selected by", f"{metric_name(record['metric'])} on the validation part"],
        ["Hardware", record["device"]],
        ["Training time", duration(record["seconds"])],
        ["Software", ", ".join(f"{name} {version}" for name, version in record["versions"].items())],
    ]
    return table(["", ""], [line for line in lines if line[1]], numbers=1)


def _search_settings(record: RetrievalRecord) -> list[list[str]]:
    """The loss of a retrieval model and where its negatives and scores come from."""
    negatives, lengths = record["negatives"], sorted(record["matryoshka"], reverse=True)
    return [
        ["Loss", code(record["loss"])],
        ["Embedding lengths in the loss (Matryoshka)", ", ".join(map(number, lengths))],
        ["Hard negatives", f"{negatives['per_pair']} per pair, mined with {negatives['model']}" if negatives else ""],
        ["Teacher", record["teacher"] or ""],
    ]


def recipe(facts: ModelFacts) -> Markdown | None:
    """All resolved options."""
    if not facts.recipe:
        return None
    public = tables.without_directories(facts.recipe)
    return fence(yaml.safe_dump(public, allow_unicode=True, sort_keys=False), "yaml")


def limits(facts: ModelFacts) -> list[str]:
    """Limits of the model that its record shows."""
    if facts.trained is None:
        return []
    labels = _weak_labels(facts) if facts.record else []
    return [*_weak_scores(facts), *_weaker_than_systems(facts), *labels, *_data_limits(facts)]


def _weak_scores(facts: ModelFacts) -> list[str]:
    assert facts.trained is not None
    measured = scores(facts)
    if not measured:
        return []
    part, seeds = measured[0].part, len(facts.trained["seeds"])
    lines = []
    weak = [score for score in measured if score.part == part and not score.is_above_baseline]
    for verdict, is_worse in (("not better", True), ("not clearly better", False)):
        values = [
            f"{score.metric} {share(score.value)} (baseline {share(score.baseline)})"
            for score in weak
            if (score.value <= (score.baseline or 0.0)) == is_worse
        ]
        if values:
            lines.append(
                f"On the {part_name(part)} part, the model is {verdict} than the simplest guess: {', '.join(values)}."
            )
    if part == "validation":
        lines.append(
            "The data have no test part. The validation part also selected the model, so its values are optimistic."
        )
    if seeds == 1:
        lines.append("The model was trained with one seed, so the variation between trainings is unknown.")
    spread = next((score for score in measured if len(score.seeds) > 1 and score.low is not None), None)
    if spread and spread.low is not None and spread.high is not None:
        lowest, highest = min(spread.seeds), max(spread.seeds)
        if highest - lowest > spread.high - spread.low:
            lines.append(
                f"The seeds disagree: {spread.metric} on the {part_name(spread.part)} part is between "
                f"{share(lowest)} and {share(highest)}, a wider range than the interval of this model."
            )
    return lines


def _weaker_than_systems(facts: ModelFacts) -> list[str]:
    """Baselines that a retrieval model does not exceed by the main metric of the tests, or of validation."""
    lines: list[str] = []
    mains: dict[str, Score] = {}
    for score in scores(facts):
        mains.setdefault(score.part, score)
    split = next(iter(mains), "").partition(":")[0]
    for score in (score for part, score in mains.items() if part.partition(":")[0] == split):
        low = score.value if score.low is None else score.low
        for name, value in score.systems.items():
            if value >= low:
                verdict = "better than this model" if value >= score.value else "not clearly worse than this model"
                lines.append(
                    f"{name} is {verdict} on the {part_name(score.part)} part: {score.metric} {share(value)}, "
                    f"this model {share(score.value)}."
                )
    return lines


def _weak_labels(facts: ModelFacts) -> list[str]:
    assert facts.record is not None
    known, lines = facts.record["labels"], []
    classes = class_name(facts)
    rare = [label["name"] for label in known if 0 < label["counts"].get("train", 0) < _FEW_EXAMPLES]
    if rare:
        lines.append(
            f"{classes} with fewer than {_FEW_EXAMPLES} training examples: {_listed(rare)}. Do not rely on them."
        )
    missed = [label["name"] for label in known if label.get("f1") == 0]
    if missed:
        lines.append(f"{classes} that the model never predicted correctly when it was measured: {_listed(missed)}.")
    has_threshold = facts.task == "qa" and facts.no_answer_threshold is not None
    if has_threshold or any("threshold" in label for label in known):
        lines.append("Thresholds were tuned on the validation part. Tune them again for data of another kind.")
    return lines


def _data_limits(facts: ModelFacts) -> list[str]:
    record = facts.trained
    assert record is not None
    lines = []
    training, measured = record["parts"].get("train"), list(record["parts"].items())[-1]
    if training and training["rows"] < _SMALL_TRAINING:
        lines.append(f"The model was trained on {training['rows']:,} examples, which is few.")
    if measured[0] != "train" and measured[1]["rows"] < _SMALL_TEST:
        lines.append(
            f"The {part_name(measured[0])} part has {measured[1]['rows']:,} examples, so its intervals are wide."
        )
    cut = [
        f"{part['truncated']:,} of {part['rows']:,} in {part_name(name)}"
        for name, part in record["parts"].items()
        if part["truncated"]
    ]
    if cut:
        lines.append(f"Examples longer than {record['max_length']:,} tokens were truncated: {', '.join(cut)}.")
    longest = max((min(part["longest"], record["max_length"]) for part in record["parts"].values()), default=0)
    if longest and longest < facts.positions:
        lines.append(f"The model has seen inputs of at most {longest:,} tokens. Longer ones have not been tested.")
    if facts.task == "qa" and facts.no_answer_threshold is None:
        lines.append("All training questions have an answer, so the model gives one to every question.")
    return lines


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more

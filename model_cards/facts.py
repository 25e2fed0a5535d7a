"""The facts that a model card states, as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.references import is_repository
from llm_jp_modernbert.inference.heads import (
    ENCODER,
    MASKED_LM,
    MULTIPLE_CHOICE,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    Head,
    head_of,
)
from llm_jp_modernbert.inference.question_answering import LONGEST, LONGEST_ANSWER, THRESHOLD
from llm_jp_modernbert.training.retrieval.record import task_of

if TYPE_CHECKING:
    from llm_jp_modernbert.adaptation.vocabulary.record import Record as VocabularyRecord
    from llm_jp_modernbert.core.hub import Checkpoint
    from llm_jp_modernbert.core.results import Row
    from llm_jp_modernbert.modeling.configuration_llm_jp_modernbert import LlmJpModernBertConfig
    from llm_jp_modernbert.training.finetuning.record import Record
    from llm_jp_modernbert.training.retrieval.record import Record as RetrievalRecord
    from llm_jp_modernbert.training.run.adaptation import Record as AdaptationRecord

    from .serving import Record as ServingRecord

TaskType = Literal[
    "fill-mask",
    "classification",
    "multi-label-classification",
    "regression",
    "reranking",
    "ner",
    "qa",
    "multiple-choice",
    "embedding",
    "sparse",
    "late-interaction",
    "encoder",
]
SEARCH_TASKS: tuple[TaskType, ...] = ("embedding", "reranking", "sparse", "late-interaction")
"""Types of task of sentence-transformers models."""

_TASKS: dict[str, TaskType] = {
    MASKED_LM.suffix: "fill-mask",
    TOKEN_CLASSIFICATION.suffix: "ner",
    QUESTION_ANSWERING.suffix: "qa",
    MULTIPLE_CHOICE.suffix: "multiple-choice",
}
_TASKS_OF_TYPES: dict[str, TaskType] = {"SparseEncoder": "sparse", "MultiVectorEncoder": "late-interaction"}


@dataclass(frozen=True)
class Exports:
    """Additional formats in the release: ONNX files, and a model of sentence-transformers.

    Attributes:
        onnx: paths in the release.
        packed: paths of the packed graphs.
        sentence_transformers: whether sentence-transformers loads the release.
        pooling: its pooling mode; empty if it has none.
        model_type: the class of sentence-transformers.
        prompts: prefixes of texts by name.
        default_prompt: name of the prompt that `encode` adds; None without one.
        similarity: `cosine`, `dot`, `euclidean`, `manhattan`, `maxsim` or `meanmaxsim`; empty if it has none.
        dimensions: length of an embedding, or of the vector of a token; 0 for others.
        max_length: maximum tokens of an input; 0 if unknown.
        other_parameters: number of parameters outside of the encoder and its head.
        is_portable: whether sentence-transformers 5.1 computes the same.
    """

    onnx: tuple[str, ...] = ()
    sentence_transformers: bool = False
    pooling: str = "mean"
    model_type: str = "SentenceTransformer"
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    similarity: str = "cosine"
    dimensions: int = 0
    max_length: int = 0
    other_parameters: int = 0
    is_portable: bool = True
    packed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plot:
    """A plot in the release: its path and its caption."""

    path: str
    caption: str


@dataclass(frozen=True)
class Example:
    """A fill-mask example: the masked text and its top predictions with probabilities, best first."""

    text: str
    answers: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% confidence interval, which is None if unknown.

    `examples` is the sample size: number of documents, prompts, checkpoints or seeds.
    """

    name: str
    value: float
    examples: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Finding:
    """A hypothesis with the criterion that decides it.

    Attributes:
        key: short name, also part of the plot's file name.
        criterion: when the hypothesis counts as confirmed.
        conditions: parts of the criterion, each with whether it is met.
        estimates: figures that the conditions are decided by.
        unit: unit of the figures and kind of their intervals.
        plot: path in the release.
    """

    key: str
    statement: str
    criterion: str
    conditions: Sequence[tuple[str, bool]]
    estimates: Sequence[Estimate]
    unit: str
    remarks: Sequence[str] = ()
    plot: str | None = None

    @property
    def holds(self) -> bool:
        """Whether all conditions are met."""
        return all(is_met for _, is_met in self.conditions)


@dataclass(frozen=True)
class EvaluatedCheckpoint:
    """A checkpoint of the training run with its results.

    Attributes:
        name: model name in the results.
        step: optimizer steps in the stage.
        tokens: tokens processed so far, over all stages; None if not logged.
        held_out_loss: cross-entropy of masked tokens of held-out text, in nats.
        held_out_accuracy: share of these tokens predicted correctly, in [0, 1].
    """

    name: str
    stage: str
    step: int
    tokens: int | None
    held_out_loss: float | None
    held_out_accuracy: float | None
    rows: Sequence[Row] = ()


@dataclass(frozen=True)
class Source:
    """Publication that the figures are taken from, such as `arXiv:2504.15544`, and its URL."""

    name: str
    url: str


@dataclass(frozen=True)
class ModelFacts:
    """Everything that a model card states.

    Attributes:
        name: `ORG/NAME`, or a directory name.
        config: content of config.json.
        format: `plain` or `native`.
        license: license id of the Hub; None if unknown.
        license_name, license_link: name and address of a license that has no id of its own.
        languages: ISO 639 codes; empty if unknown.
        datasets: repositories of the training data, for the metadata.
        base_model: repository of the model that training started from, if it was published separately.
        is_continued: whether the first stage in `training` started from a model whose own training is not in there.
        tokenizer: `vocabulary_size`, `mask_token` and `model_max_length`.
        training: content of training.json.
        recipe_file: path in the release of the last stage's recipe.
        curve: path in the release of the training plot.
        plots: plots of evaluation results.
        checkpoints: revisions of the repository.
        source: publication that the figures are taken from; None if this project measured them.
        remarks: notes on this model, one or two sentences each.
        evaluated_checkpoints: checkpoints in training order.
        commands: commands that produced the model and its results; if empty, the card derives them.
        record: content of finetuning.json, if the model was fine-tuned by this package.
        retrieval: content of retrieval.json, if the model was trained for search by this package.
        adaptation: content of adaptation.json, if the model was adapted to a domain.
        vocabulary: content of vocabulary.json, if the vocabulary was changed.
        recipe: content of recipe.yaml of a fine-tuned model.
        serving: content of serving.json, if `serve-check` measured this model.
        outputs: real output of the usage code, by the title of its snippet (see `usage.snippets`).
    """

    name: str
    config: Mapping[str, Any]
    format: str = "plain"
    dtype: str = "float32"
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    languages: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    base_model: str | None = None
    is_continued: bool = False
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] | None = None
    recipe_file: str | None = None
    rows: Sequence[Row] = ()
    curve: str | None = None
    plots: Sequence[Plot] = ()
    checkpoints: Sequence[Checkpoint] = ()
    exports: Exports = Exports()
    examples: Sequence[Example] = ()
    source: Source | None = None
    remarks: tuple[str, ...] = ()
    evaluated_checkpoints: Sequence[EvaluatedCheckpoint] = ()
    findings: Sequence[Finding] = ()
    commands: Sequence[str] = ()
    record: Record | None = None
    retrieval: RetrievalRecord | None = None
    adaptation: AdaptationRecord | None = None
    vocabulary: VocabularyRecord | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    serving: ServingRecord | None = None
    outputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def head(self) -> Head:
        """The head of the model; that of a masked language model if config.json names none."""
        return head_of(self.config) if self.config.get("architectures") else MASKED_LM

    @property
    def labels(self) -> list[str]:
        """Names of the model's outputs in config.json, where transformers omits its default of two."""
        labels = self.config.get("id2label", {0: "LABEL_0", 1: "LABEL_1"})
        # config.json sorts the numbers as text.
        return [str(labels[number]) for number in sorted(labels, key=int)]

    @property
    def trained(self) -> Record | RetrievalRecord | None:
        """The record of a training for a task."""
        return self.record or self.retrieval

    @property
    def is_nli(self) -> bool:
        """Whether the model recognizes entailment, as zero-shot classification needs."""
        return any(label.lower().startswith("entail") for label in self.labels)

    @property
    def takes_pairs(self) -> bool:
        """Whether a classifier reads two texts."""
        if self.record:
            return "text_pair" in self.record["columns"]
        return self.is_nli or self.exports.model_type == "CrossEncoder"

    @property
    def positions(self) -> int:
        """Maximum number of tokens of an input."""
        return int(_number(self.config, "max_position_embeddings", 0))

    @property
    def max_length(self) -> int:
        """Maximum number of tokens of an input, as sentence-transformers truncates it."""
        return self.exports.max_length or self.positions

    @property
    def longest_answer(self) -> int:
        """See `inference.question_answering.LONGEST`."""
        return int(_number(self.config, LONGEST, LONGEST_ANSWER))

    @property
    def no_answer_threshold(self) -> float | None:
        """See `inference.question_answering.THRESHOLD`."""
        return None if self.config.get(THRESHOLD, 0.0) is None else _number(self.config, THRESHOLD, 0.0)

    @property
    def task(self) -> TaskType:
        """The type of task that the model solves."""
        if self.exports.model_type in _TASKS_OF_TYPES:
            return _TASKS_OF_TYPES[self.exports.model_type]
        if self.head is ENCODER:
            return "embedding" if self.exports.sentence_transformers else "encoder"
        if self.head is not SEQUENCE_CLASSIFICATION:
            return _TASKS[self.head.suffix]
        if self.config.get("problem_type") == "regression" or len(self.labels) == 1:
            return "reranking" if self.exports.sentence_transformers else "regression"
        is_multi_label = self.config.get("problem_type") == "multi_label_classification"
        return "multi-label-classification" if is_multi_label else "classification"

    def is_own(self, row: Row) -> bool:
        """Whether a result was measured by the job that made the model, not by `evaluate`."""
        if row.task in ("adapt", "vocabulary"):
            return True
        if self.retrieval is not None:
            return row.task == task_of(self.retrieval["kind"])
        return self.record is not None and row.task == f"finetune-{self.record['kind']}"

    @property
    def stages(self) -> Sequence[Mapping[str, Any]]:
        """Training stages in training.json."""
        return (self.training or {}).get("stages", ())

    @property
    def tokens(self) -> int | None:
        """Tokens processed over all stages; None if unknown for any of them."""
        counts = [stage.get("tokens") for stage in self.stages]
        known = [int(count) for count in counts if count is not None]
        return sum(known) if known and len(known) == len(counts) else None

    @property
    def start(self) -> str | None:
        """Repository of the model that the first stage started from; None if unknown."""
        first = str(self.stages[0].get("init_from") or "").partition("@")[0] if self.stages else ""
        return first if is_repository(first) else self.base_model

    @property
    def longest_row(self) -> int | None:
        """Longest sequence length used in training; None if unknown, as for that of a base model."""
        if self.is_continued:
            return None
        recipes = [stage["recipe"] for stage in self.stages]
        return max((int(recipe["sequence_length"]) for recipe in recipes if "sequence_length" in recipe), default=None)


def is_continued(stages: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any]) -> bool:
    """Whether the first stage started from another model, whose own training is not among the stages.

    Args:
        stages: the stages in training.json.
        recipe: the recipe of the last stage; empty if unknown.
    """
    if not stages:
        return False
    first = stages[0]
    if "init_from" in first:
        return bool(first["init_from"])
    if len(stages) == 1 and "init_from" in recipe:
        return bool(recipe["init_from"])
    # Logs of version 0.1: the recipe of a model with random weights has its shape.
    return bool(first.get("recipe")) and "recipe_name" not in first and "model" not in first["recipe"]


def _number(config: Mapping[str, Any], key: str, default: float) -> float:
    """A number in config.json, which may become part of code."""
    value = config.get(key, default)
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UsageError(f"config.json: {key} is {str(value)[:50]!r}; expected a number.")
    return value


def read_config(config: Mapping[str, Any]) -> LlmJpModernBertConfig:
    """Parse config.json of a ModernBERT model in either format.

    Raises:
        UsageError: another model type, or invalid values.
    """
    from llm_jp_modernbert.inference.loading import OUR_MODEL_TYPES
    from llm_jp_modernbert.modeling.configuration_llm_jp_modernbert import LlmJpModernBertConfig

    if config.get("model_type") not in OUR_MODEL_TYPES:
        raise UsageError(
            f"config.json: unsupported model_type {config.get('model_type')!r}; "
            f"expected {' or '.join(OUR_MODEL_TYPES)}."
        )
    try:
        parsed: LlmJpModernBertConfig = LlmJpModernBertConfig.from_dict(dict(config))
    except (TypeError, ValueError, KeyError) as error:
        raise UsageError(f"config.json: {' '.join(str(error).split())[:200]}") from error
    return parsed


def count_parameters(config: Mapping[str, Any], head: Head = MASKED_LM) -> dict[str, int]:
    """Count the parameters of a model by component; tied parameters count once.

    Raises:
        UsageError: the configuration is not that of a ModernBERT model.
    """
    import torch

    from llm_jp_modernbert.modeling import modeling_llm_jp_modernbert as modeling

    parsed = read_config(config)
    try:
        with torch.device("meta"):
            model = getattr(modeling, f"LlmJpModernBert{head.suffix}")(parsed)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"config.json: {' '.join(str(error).split())[:200]}") from error
    counts = {"Token embeddings": 0, "Encoder": 0, "Head": 0}
    for name, parameter in model.named_parameters():
        component = "Encoder" if head is ENCODER or name.startswith("model.") else "Head"
        counts["Token embeddings" if "tok_embeddings" in name else component] += parameter.numel()
    return {component: count for component, count in counts.items() if count}

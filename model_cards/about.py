"""All that a model's card is made of, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_jp_modernbert.core.hub import Checkpoint
    from llm_jp_modernbert.evaluation.report.results import Row


@dataclass(frozen=True)
class Exports:
    """Other forms of the model in the release.

    Attributes:
        onnx: paths of ONNX files in the release.
        sentence_transformers: whether modules.json is there.
        pooling: how sentence-transformers makes an embedding of tokens.
    """

    onnx: tuple[str, ...] = ()
    sentence_transformers: bool = False
    pooling: str = "mean"


@dataclass(frozen=True)
class Picture:
    """A plot in the release: its path there, and what it shows."""

    path: str
    caption: str


@dataclass(frozen=True)
class Example:
    """A filled mask: the text with the mask, and the likeliest tokens with their probabilities, the first first."""

    text: str
    answers: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Estimate:
    """A figure with what is not known of it.

    Attributes:
        name: what it is.
        value: the figure.
        examples: how many documents, prompts, checkpoints or seeds it is of.
        low: lower end of its 95 % interval; None where there is none.
        high: its upper end.
    """

    name: str
    value: float
    examples: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Finding:
    """A statement that was tested.

    Attributes:
        key: a short name, also of its plot.
        statement: what was to be seen.
        rule: when it counts as seen.
        parts: what the rule asks for, and whether each of these is so.
        estimates: the figures that decide.
        unit: what they are, such as `ratio of pseudo-perplexities`.
        remarks: what is to be known of them.
        picture: path of its plot in the release.
    """

    key: str
    statement: str
    rule: str
    parts: Sequence[tuple[str, bool]]
    estimates: Sequence[Estimate]
    unit: str
    remarks: Sequence[str] = ()
    picture: str | None = None

    @property
    def holds(self) -> bool:
        """Whether all is so that the rule asks for."""
        return all(is_so for _, is_so in self.parts)


@dataclass(frozen=True)
class State:
    """A state of the model in its training, as it was measured.

    Attributes:
        name: as results call it.
        stage: of the training.
        step: optimizer steps of that stage.
        tokens: read until then, over all stages; None where that was not logged.
        held_out_loss: on masked tokens of held-out text, in nats.
        held_out_accuracy: share of these that are predicted exactly.
        context: tokens that were read at once for the two.
        rows: results.
    """

    name: str
    stage: str
    step: int
    tokens: int | None
    held_out_loss: float | None
    held_out_accuracy: float | None
    context: int | None
    rows: Sequence[Row] = ()


@dataclass(frozen=True)
class Source:
    """Whose figures they are, where they are not this project's: a name such as `arXiv:2504.15544`, and an address."""

    name: str
    url: str


@dataclass(frozen=True)
class About:
    """All that a card is made of.

    Attributes:
        name: `ORG/NAME`, or a directory's name in a dry run.
        config: the release's config.json.
        format: `plain` or `native`.
        dtype: of the weights.
        license: as the Hub names it.
        languages: ISO 639 codes.
        datasets: repositories of the training data, for the metadata.
        base_model: repository of the model that training started from, where that is another's.
        tokenizer: `vocabulary_size`, `mask_token` and `model_max_length`.
        training: the content of training.json.
        recipe_file: path in the release of the last stage's recipe.
        rows: results of this model.
        curve: path in the release of the plot of the training.
        plots: of evaluations.
        checkpoints: revisions of the repository.
        exports: other forms.
        examples: filled masks of the released model, good or bad.
        source: whose figures the card shows; None for figures that this project measured.
        remarks: what is to be known of this model alone, a sentence or two each.
        states: of the training, in its order, as they were measured.
        findings: what was tested with them.
        commands: what made the model and every figure; empty where the card has to tell it from the other facts.
    """

    name: str
    config: Mapping[str, Any]
    format: str = "plain"
    dtype: str = "float32"
    license: str = "apache-2.0"
    languages: tuple[str, ...] = ("ja", "en")
    datasets: tuple[str, ...] = ()
    base_model: str | None = None
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] | None = None
    recipe_file: str | None = None
    rows: Sequence[Row] = ()
    curve: str | None = None
    plots: Sequence[Picture] = ()
    checkpoints: Sequence[Checkpoint] = ()
    exports: Exports = Exports()
    examples: Sequence[Example] = ()
    source: Source | None = None
    remarks: tuple[str, ...] = ()
    states: Sequence[State] = ()
    findings: Sequence[Finding] = ()
    commands: Sequence[str] = ()

    @property
    def stages(self) -> Sequence[Mapping[str, Any]]:
        """Of the training, as far as they are known."""
        return (self.training or {}).get("stages", ())

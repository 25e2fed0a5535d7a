"""Fill-mask test: prompts with one gap each, and their correct answers.

Answers are scored so that no tokenizer is penalised for its segmentation or spacing:

* An answer that equals a single token of the vocabulary (ignoring whitespace, `##`, NFKC variants and case) is scored
  on one mask, by the best of the equal tokens.
* Any other answer gets as many masks as it has tokens. They are filled from left to right with the answer's own
  tokens, and the answer's rank is the rank of its worst token.
* The rank of a prompt is the best rank of its answers. Rank 1 is first; an answer ranks behind wrong tokens with equal
  logits, so that a model with constant logits is never right.

`fill-mask-published-tokenizer` feeds an llm-jp model the same prompts through the normaliser of the tokenizer that was
published with llm-jp-modernbert-base, which adds a `▁` after every mask. Weights, prompts and correct tokens are the
same, so only the input differs.
"""

from __future__ import annotations

import copy
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import fingerprint
from llm_jp_modernbert.core.plots import literal, panels_of
from llm_jp_modernbert.core.references import ModelReference
from llm_jp_modernbert.core.results import Measurement
from llm_jp_modernbert.core.text_files import json_lines
from llm_jp_modernbert.inference.fill_mask import readable
from llm_jp_modernbert.inference.masked_logits import batches, masked_logits
from llm_jp_modernbert.tokenization.layout import UNK, decoder_form, is_encoder_form

from ..data.options import Data
from ..data.readers import hub_rows, sample
from ..report.leaderboard import markdown_line
from ..report.plots import Measured, short_labels
from .task import Highlight, Outcome, Progress, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import PreTrainedTokenizerBase

    from ..encoders.models import EvaluatedModel

PROMPTS = Path(__file__).parents[1] / "data" / "prompts.jsonl"
"""The packaged prompts."""

GAP = "[MASK]"

_TOP = 5
# A missing file with one of these suffixes is not looked up on the Hub.
_SUFFIXES = (".json", ".jsonl", ".gz")


@dataclass(frozen=True)
class Prompt:
    """A text with one gap.

    Attributes:
        id: unique name.
        category: for example `idioms`.
        text: contains `[MASK]` once.
        answers: correct answers; empty if unknown.
    """

    id: str
    category: str
    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class FillMask(Task):
    """The same prompts in both protocols; the paper's prints answers without scoring them."""

    name = "fill-mask"
    hub_task = "fill-mask"
    highlights: ClassVar[tuple[Highlight, ...]] = (Highlight("top1_accuracy", "Fill-mask top-1"),)

    def load(self) -> Data:
        """The packaged prompts, or the user's: a file, or a Hub dataset."""
        path = self.options.prompts or PROMPTS
        reference = ModelReference.parse(str(path))
        if not reference.is_local and "/" in reference.name and path.suffix not in _SUFFIXES:
            advice = "Set --prompts to a file of prompts."
            rows, revision = hub_rows(reference.name, None, "test", None, reference.revision, advice)
            places = ((f"{path}, row {number}", row) for number, row in enumerate(rows, start=1))
            name, prompts = reference.name, _prompts(places, str(path))
        else:
            name = "fill-mask prompts" if path == PROMPTS else path.name
            prompts, revision = read_prompts(path), fingerprint([path])
        limit = self.options.limit or len(prompts)
        return Data(name, revision, "test", sample(prompts, limit, self.options.seed))

    def input_tokenizer(self, model: EvaluatedModel) -> PreTrainedTokenizerBase:
        """Tokenizer of the prompts; the correct tokens always come from the model's own tokenizer."""
        return model.tokenizer

    def measure(self, model: EvaluatedModel, data: Data, progress: Progress) -> Outcome:
        """Top-1 and top-5 accuracy and mean reciprocal rank, over all prompts and by category."""
        gaps = _Gaps(model.tokenizer, self.input_tokenizer(model), model.max_length)
        attempts: list[_Attempt] = []
        truncated = {}
        for prompt in data.examples:
            of_prompt, truncated[prompt.id] = gaps.attempts(prompt)
            attempts += of_prompt
        top, ranks = _run(model, attempts, progress)
        instances = [
            {
                "id": prompt.id,
                "category": prompt.category,
                "text": prompt.text,
                "answers": list(prompt.answers),
                "rank": min(ranks[prompt.id].values()) if prompt.id in ranks else None,
                "top": top[prompt.id],
                "truncated": truncated[prompt.id],
            }
            for prompt in data.examples
        ]
        return Outcome(_measurements(instances), instances)

    @classmethod
    def plottable(cls, measured: Measured) -> bool:
        return measured.value("top1_accuracy") is not None

    @classmethod
    def plot(cls, measured: Sequence[Measured]) -> Figure:
        """Top-1 accuracy in percent, one row per category and one column per model; darker is better."""
        categories = ["", *dict.fromkeys(row.subset for model in measured for row in model.rows if row.subset)]
        shares = [[model.value("top1_accuracy", category) for model in measured] for category in categories]
        # None becomes NaN.
        values = 100 * np.array(shares, dtype=float)
        figure, (axes,) = panels_of(1, height=1.2 + 0.24 * len(categories))
        highest = max(1.0, float(np.nanmax(values)))
        # Light enough for black numbers.
        axes.imshow(values, cmap="Blues", vmin=0, vmax=2 * highest, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            axes.text(column, row, "–" if np.isnan(value) else f"{value:.1f}", ha="center", va="center", fontsize=7)
        axes.set_yticks(range(len(categories)), ["all", *(literal(name.replace("_", " ")) for name in categories[1:])])
        labels = short_labels(measured)
        is_wide = sum(map(len, labels)) > 40
        axes.set_xticks(range(len(labels)), labels, rotation=30 if is_wide else 0, ha="right" if is_wide else "center")
        axes.tick_params(length=0, labelsize=8)
        axes.axhline(0.5, color="white", lw=2)
        axes.spines[:].set_visible(False)
        axes.set_title("top-1 accuracy, %", fontsize=8)
        return figure

    @classmethod
    def compare(cls, instances: Mapping[str, Sequence[Mapping[str, Any]]]) -> str | None:
        """The models' first answers side by side, as the paper prints them."""
        lines = ["Correct answers are bold.", "", markdown_line(["prompt", "answers", *instances])]
        lines.append(markdown_line(["---"] * (2 + len(instances))))
        for row in zip(*instances.values(), strict=True):
            text = row[0]["text"]
            shown = text if len(text) <= 80 else f"…{text[-80:]}"
            cells = [f"**{item['top'][0]}**" if item["rank"] == 1 else str(item["top"][0]) for item in row]
            lines.append(markdown_line([shown, " / ".join(row[0]["answers"]), *cells]))
        return "\n".join([*lines, ""])


@dataclass(frozen=True)
class FillMaskPublishedTokenizer(FillMask):
    """The fill-mask test with the defect of the published tokenizer; for llm-jp models only."""

    name = "fill-mask-published-tokenizer"
    highlights = ()

    def input_tokenizer(self, model: EvaluatedModel) -> PreTrainedTokenizerBase:
        """The model's tokenizer as it was published.

        Raises:
            UsageError: not an llm-jp tokenizer.
        """
        tokenizer = model.tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None or not is_encoder_form(backend):
            raise UsageError(f"{self.name}: the tokenizer of {model.name} is not llm-jp's. Use the task fill-mask.")
        return as_published(tokenizer)

    @classmethod
    def plottable(cls, measured: Measured) -> bool:
        """Never: model cards compare its values with those of fill-mask in a table."""
        return False

    @classmethod
    def compare(cls, instances: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """None: the prompts are those of fill-mask."""
        return None


def as_published(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy of an llm-jp tokenizer that behaves like the one published with llm-jp-modernbert-base.

    Its normaliser treats each segment between special tokens as the start of a text, and adds a `▁` there.

    Args:
        tokenizer: in its encoder form; not modified.
    """
    published = copy.deepcopy(tokenizer)
    published.backend_tokenizer.normalizer = decoder_form([(UNK, 0.0)]).normalizer
    published.backend_tokenizer.pre_tokenizer = None
    return published


def read_prompts(path: Path) -> list[Prompt]:
    """Reads a JSON-lines file of prompts with `text` and optionally `answers`, `category` and `id`.

    Raises:
        UsageError: a line is not a prompt, or the file is empty.
    """
    if not path.is_file():
        raise UsageError(f"--prompts {path}: no such file.")
    return _prompts(json_lines(path, "text"), str(path))


def _prompts(rows: Iterable[tuple[str, dict[str, Any]]], source: str) -> list[Prompt]:
    prompts = []
    for number, (place, row) in enumerate(rows, start=1):
        text, answers = row.get("text"), row.get("answers", [])
        if not isinstance(text, str) or text.count(GAP) != 1:
            raise UsageError(f"{place}: 'text' must contain {GAP} once.")
        if not isinstance(answers, list) or not all(isinstance(answer, str) and answer.strip() for answer in answers):
            raise UsageError(f"{place}: 'answers' must be a list of texts.")
        name = str(row.get("id", f"prompt-{number:03}"))
        prompts.append(Prompt(name, str(row.get("category", "all")), text, tuple(answers)))
    if not prompts:
        raise UsageError(f"{source}: contains no prompt.")
    if len({prompt.id for prompt in prompts}) < len(prompts):
        raise UsageError(f"{source}: two prompts have the same id.")
    return prompts


@dataclass(frozen=True)
class _Attempt:
    """An input row, the position of the mask to predict, and for each answer the correct tokens there.

    `answer` is None for the row with a single mask, whose predictions are reported.
    """

    prompt: str
    answer: int | None
    row: list[int]
    position: int
    correct: dict[int, list[int]]


def _run(
    model: EvaluatedModel, attempts: Sequence[_Attempt], progress: Progress
) -> tuple[dict[str, list[str]], dict[str, dict[int, int]]]:
    """Predicts all masks: the top answers of each prompt, and the rank of each of its answers."""
    masked_lm = model.masked_lm
    top: dict[str, list[str]] = {}
    ranks: dict[str, dict[int, int]] = {}
    done = 0
    ordered = sorted(attempts, key=lambda attempt: -len(attempt.row))
    for places in batches([len(attempt.row) for attempt in ordered], model.tokens_per_batch):
        batch = [ordered[place] for place in places]
        rows, positions = [attempt.row for attempt in batch], [[attempt.position] for attempt in batch]
        for attempt, logits in zip(batch, masked_logits(masked_lm, rows, positions), strict=True):
            scores = logits[0, : len(model.tokenizer)]
            if attempt.answer is None:
                top[attempt.prompt] = [
                    readable(model.tokenizer, token) for token in scores.topk(_TOP).indices.tolist()
                ]
            for answer, tokens in attempt.correct.items():
                closest = scores[tokens].max()
                rank = 1 + int((scores >= closest).sum()) - int((scores[tokens] >= closest).sum())
                answers = ranks.setdefault(attempt.prompt, {})
                answers[answer] = max(rank, answers.get(answer, 0))
        done += len(batch)
        progress(done / len(attempts))
    return top, ranks


@dataclass
class _Gaps:
    """Prompts as token rows of at most `max_length` tokens; `tokenizer` tokenizes the answers."""

    tokenizer: PreTrainedTokenizerBase
    input_tokenizer: PreTrainedTokenizerBase
    max_length: int

    def attempts(self, prompt: Prompt) -> tuple[list[_Attempt], bool]:
        """The row with one mask, and one row per token of each answer of several tokens.

        Returns:
            The rows, and whether the prompt was truncated.
        """
        pieces = {number: self._pieces(answer) for number, answer in enumerate(prompt.answers)}
        single = {number: tokens[0] for number, tokens in pieces.items() if len(tokens) == 1}
        row, position, truncated = self._row(prompt, 1)
        attempts = [_Attempt(prompt.id, None, row, position, single)]
        for number, tokens in pieces.items():
            if number in single:
                continue
            row, position, _ = self._row(prompt, len(tokens))
            for place, correct in enumerate(tokens):
                filled = list(row)
                filled[position : position + place] = [token for (token,) in tokens[:place]]
                attempts.append(_Attempt(prompt.id, number, filled, position + place, {number: correct}))
        return attempts, truncated

    @cached_property
    def _surfaces(self) -> dict[str, list[int]]:
        special = set(self.tokenizer.all_special_ids)
        texts = self.tokenizer.batch_decode([[token] for token in range(len(self.tokenizer))])
        surfaces: dict[str, list[int]] = {}
        for token, text in enumerate(texts):
            if token not in special:
                surfaces.setdefault(_surface(text), []).append(token)
        return surfaces

    def _pieces(self, answer: str) -> list[list[int]]:
        """Correct ids for each token of an answer."""
        known = self._surfaces.get(_surface(answer))
        if known:
            return [known]
        ids = self.tokenizer(f"{self.tokenizer.mask_token}{answer}", add_special_tokens=False)["input_ids"]
        return [[token] for token in ids[ids.index(self.tokenizer.mask_token_id) + 1 :]]

    def _row(self, prompt: Prompt, masks: int) -> tuple[list[int], int, bool]:
        """Token ids, the position of the first mask, and whether the row was truncated."""
        text = prompt.text.replace(GAP, str(self.tokenizer.mask_token) * masks)
        ids: list[int] = self.input_tokenizer(text, verbose=False)["input_ids"]
        mask = int(self.tokenizer.mask_token_id)
        if ids.count(mask) != masks:
            raise UsageError(f"prompt {prompt.id}: the tokenizer gives {ids.count(mask)} masks, not {masks}.")
        excess = len(ids) - self.max_length
        if excess > 0:
            # Cut far before the gap first, then at the end; keep the special tokens.
            before = min(excess, max(0, ids.index(mask) - self.max_length // 2))
            ids = [*ids[:1], *ids[1 + before : len(ids) - 1 - (excess - before)], *ids[-1:]]
        return ids, ids.index(mask), excess > 0


def _surface(text: str) -> str:
    return unicodedata.normalize("NFKC", text.removeprefix("##")).strip().casefold()


def _measurements(instances: Sequence[dict[str, Any]]) -> list[Measurement]:
    scored = [instance for instance in instances if instance["rank"] is not None]
    if not scored:
        raise UsageError("no prompt has an answer to score. Add 'answers', or use --text to only print predictions.")
    measurements = []
    for category in ("", *dict.fromkeys(instance["category"] for instance in scored)):
        ranks = [instance["rank"] for instance in scored if category in ("", instance["category"])]
        for metric, values in (
            ("top1_accuracy", [rank == 1 for rank in ranks]),
            ("top5_accuracy", [rank <= 5 for rank in ranks]),
            ("mrr", [1 / rank for rank in ranks]),
        ):
            mean = sum(values) / len(values)
            measurements.append(Measurement(metric, mean, subset=category, examples=len(ranks), scale=100))
    return measurements

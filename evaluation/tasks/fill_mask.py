"""The fill-mask test: prompts with one gap each and the answers that are right.

How an answer is scored, so that no tokenizer is hurt by its way of cutting or spacing:

* An answer that some token of the vocabulary reads as, whatever blanks or `##` it is written with, is scored on one
  mask, by the best of these tokens; letters are compared in NFKC and without case.
* Any other answer gets as many masks as it has tokens. They are filled from left to right with the answer's own
  tokens, and the answer's rank is that of its worst token.
* The rank of a prompt is the best of its answers' ranks; 1 is the first place. A token is behind those whose logits
  are strictly greater.

`fill-mask-published-tokenizer` asks a llm-jp model the same through the normaliser of the tokenizer that was published
with llm-jp-modernbert-base, which puts a `▁` after every mask: on the same weights, prompts and right tokens only what
the model reads differs.
"""

from __future__ import annotations

import copy
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.fill_mask import readable
from llm_jp_modernbert.inference.loading import split_revision
from llm_jp_modernbert.inference.masked_logits import batches, masked_logits
from llm_jp_modernbert.tokenization.layout import UNK, decoder_form, is_encoder_form

from ..data.readers import fingerprint, hub_rows, json_lines, some
from ..report.results import Measurement
from .task import Data, Options, Outcome, Progress, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..encoders.models import EvaluatedModel

PROMPTS = Path(__file__).parents[1] / "data" / "prompts.jsonl"
GAP = "[MASK]"

_TOP = 5
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(@.+)?")
# What looks like a repository and ends so is a file that is missing.
_SUFFIXES = (".json", ".jsonl", ".gz")


@dataclass(frozen=True)
class Prompt:
    """A text with one gap.

    Attributes:
        id: its name.
        category: such as `idioms`.
        text: with `[MASK]` once.
        answers: what may stand there; empty where nobody said.
    """

    id: str
    category: str
    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class FillMask(Task):
    """The same prompts in both protocols; the paper's prints answers side by side and scores nothing."""

    name: ClassVar[str] = "fill-mask"

    @classmethod
    def for_options(cls, options: Options) -> FillMask:
        """With the protocol's settings."""
        return cls(options)

    def load(self) -> Data:
        """The prompts that come with the package, or the user's: a file, or a dataset of the Hub."""
        path = self.options.prompts or PROMPTS
        if not path.exists() and _REPOSITORY.fullmatch(str(path)) and path.suffix not in _SUFFIXES:
            name, revision = split_revision(str(path))
            rows, found = hub_rows(name, None, "test", None, revision, "Name a file of prompts by --prompts.")
            prompts = _prompts(rows, str(path), "row")
        else:
            prompts, found = read_prompts(path), fingerprint([path])
            name = "fill-mask prompts" if path == PROMPTS else path.name
        return Data(name, found, "test", some(prompts, self.options.limit or len(prompts), self.options.seed))

    def reading_tokenizer(self, model: EvaluatedModel) -> PreTrainedTokenizerBase:
        """What cuts the prompts; the tokens that are right are those of the model's own tokenizer."""
        return model.tokenizer

    def measure(self, model: EvaluatedModel, data: Data, progress: Progress) -> Outcome:
        """Top-1 and top-5 accuracy and mean reciprocal rank, of all and by category."""
        masked_lm = model.masked_lm
        gaps = _Gaps(model.tokenizer, self.reading_tokenizer(model), model.max_length)
        attempts = [attempt for prompt in data.examples for attempt in gaps.attempts(prompt)]
        best: dict[str, int] = {}
        top: dict[str, list[str]] = {}
        ranks: dict[tuple[str, int], int] = {}
        order = sorted(range(len(attempts)), key=lambda index: -len(attempts[index].row))
        done = 0
        for places in batches([len(attempts[index].row) for index in order], model.tokens_per_batch):
            batch = [attempts[order[place]] for place in places]
            found = masked_logits(masked_lm, [one.row for one in batch], [[one.position] for one in batch])
            for attempt, logits in zip(batch, found, strict=True):
                scores = logits[0, : len(model.tokenizer)]
                if attempt.answer is None:
                    top[attempt.prompt] = [
                        readable(model.tokenizer, token) for token in scores.topk(_TOP).indices.tolist()
                    ]
                for answer, tokens in attempt.wanted.items():
                    rank = min(1 + int((scores > scores[token]).sum()) for token in tokens)
                    key = (attempt.prompt, answer)
                    ranks[key] = max(rank, ranks.get(key, 0))
            done += len(batch)
            progress(done / len(attempts))
        for (prompt, _), rank in ranks.items():
            best[prompt] = min(rank, best.get(prompt, rank))
        instances = [
            {
                "id": prompt.id,
                "category": prompt.category,
                "text": prompt.text,
                "answers": list(prompt.answers),
                "rank": best.get(prompt.id),
                "top": top[prompt.id],
                "truncated": gaps.truncated(prompt),
            }
            for prompt in data.examples
        ]
        return Outcome(_figures(instances), instances)


@dataclass(frozen=True)
class FillMaskPublishedTokenizer(FillMask):
    """The test through the published tokenizer's defect; for llm-jp models alone."""

    name: ClassVar[str] = "fill-mask-published-tokenizer"

    def reading_tokenizer(self, model: EvaluatedModel) -> PreTrainedTokenizerBase:
        """The model's tokenizer as it was published.

        Raises:
            UsageError: it is no llm-jp tokenizer.
        """
        tokenizer = model.tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None or not is_encoder_form(backend):
            raise UsageError(f"{self.name}: the tokenizer of {model.name} is not llm-jp's. Use the task fill-mask.")
        return as_published(tokenizer)


def as_published(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy of a llm-jp tokenizer that reads text as the one published with llm-jp-modernbert-base does.

    Its normaliser takes each stretch of text between special tokens for a beginning, and puts a `▁` there.

    Args:
        tokenizer: in its encoder form; left unchanged.
    """
    published = copy.deepcopy(tokenizer)
    published.backend_tokenizer.normalizer = decoder_form([(UNK, 0.0)]).normalizer
    published.backend_tokenizer.pre_tokenizer = None
    return published


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts of a JSON-lines file with `text` and, as far as they are known, `answers`, `category` and `id`.

    Raises:
        UsageError: a line is no such prompt, or there is none.
    """
    if not path.is_file():
        raise UsageError(f"--prompts {path}: no such file.")
    return _prompts(json_lines(path, "text"), str(path), "line")


def _prompts(rows: Iterable[dict[str, Any]], source: str, unit: str) -> list[Prompt]:
    prompts = []
    for number, row in enumerate(rows, start=1):
        where = f"{source}, {unit} {number}"
        text, answers = row.get("text"), row.get("answers", [])
        if not isinstance(text, str) or text.count(GAP) != 1:
            raise UsageError(f"{where}: a prompt has {GAP} once.")
        if not isinstance(answers, list) or not all(isinstance(answer, str) and answer.strip() for answer in answers):
            raise UsageError(f"{where}: 'answers' must be a list of texts.")
        name = str(row.get("id", f"prompt-{number:03}"))
        prompts.append(Prompt(name, str(row.get("category", "all")), text, tuple(answers)))
    if not prompts:
        raise UsageError(f"{source}: holds no prompt.")
    if len({prompt.id for prompt in prompts}) < len(prompts):
        raise UsageError(f"{source}: two prompts have the same id.")
    return prompts


@dataclass(frozen=True)
class _Attempt:
    """A row that is read, the mask that is looked at, and by answer the tokens that are right there."""

    prompt: str
    answer: int | None
    row: list[int]
    position: int
    wanted: dict[int, list[int]]


class _Gaps:
    """Prompts as token rows: one tokenizer cuts the answers, and another form of it may read the prompts."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, reading: PreTrainedTokenizerBase, longest: int) -> None:
        self._tokenizer = tokenizer
        self._reading = reading
        self._longest = longest
        self._mask = int(tokenizer.mask_token_id)

    def attempts(self, prompt: Prompt) -> list[_Attempt]:
        """The row with one mask, and for each answer of several tokens a row for each of them."""
        pieces = {number: self._pieces(answer) for number, answer in enumerate(prompt.answers)}
        single = {number: found[0] for number, found in pieces.items() if len(found) == 1}
        row, position = self._row(prompt, 1)
        found = [_Attempt(prompt.id, None, row, position, single)]
        for number, tokens in pieces.items():
            if number in single:
                continue
            row, position = self._row(prompt, len(tokens))
            for place, right in enumerate(tokens):
                filled = list(row)
                filled[position : position + place] = [token for (token,) in tokens[:place]]
                found.append(_Attempt(prompt.id, number, filled, position + place, {number: right}))
        return found

    def truncated(self, prompt: Prompt) -> bool:
        """Whether the prompt is longer than the model reads, and was cut."""
        return len(self._reading(self._written(prompt, 1), verbose=False)["input_ids"]) > self._longest

    @cached_property
    def _surfaces(self) -> dict[str, list[int]]:
        special = set(self._tokenizer.all_special_ids)
        texts = self._tokenizer.batch_decode([[token] for token in range(len(self._tokenizer))])
        found: dict[str, list[int]] = {}
        for token, text in enumerate(texts):
            if token not in special:
                found.setdefault(_surface(text), []).append(token)
        return found

    def _pieces(self, answer: str) -> list[list[int]]:
        """For each token of an answer the ids that are right."""
        known = self._surfaces.get(_surface(answer))
        if known:
            return [known]
        ids = self._tokenizer(f"{self._tokenizer.mask_token}{answer}", add_special_tokens=False)["input_ids"]
        return [[token] for token in ids[ids.index(self._mask) + 1 :]]

    def _written(self, prompt: Prompt, masks: int) -> str:
        return prompt.text.replace(GAP, str(self._tokenizer.mask_token) * masks)

    def _row(self, prompt: Prompt, masks: int) -> tuple[list[int], int]:
        ids: list[int] = self._reading(self._written(prompt, masks), verbose=False)["input_ids"]
        if ids.count(self._mask) != masks:
            raise UsageError(f"prompt {prompt.id}: the tokenizer reads {ids.count(self._mask)} masks, not {masks}.")
        over = len(ids) - self._longest
        if over > 0:
            # What stands far before the gap goes first; the special tokens at the ends stay.
            before = min(over, max(0, ids.index(self._mask) - self._longest // 2))
            ids = [*ids[:1], *ids[1 + before : len(ids) - 1 - (over - before)], *ids[-1:]]
        return ids, ids.index(self._mask)


def _surface(text: str) -> str:
    return unicodedata.normalize("NFKC", text.removeprefix("##")).strip().casefold()


def _figures(instances: Sequence[dict[str, Any]]) -> list[Measurement]:
    scored = [instance for instance in instances if instance["rank"] is not None]
    if not scored:
        raise UsageError(
            "no prompt has an answer to score. Give them 'answers', or use --text to look at texts alone."
        )
    found = []
    for category in ("", *dict.fromkeys(instance["category"] for instance in scored)):
        ranks = [instance["rank"] for instance in scored if category in ("", instance["category"])]
        for metric, values in (
            ("top1_accuracy", [rank == 1 for rank in ranks]),
            ("top5_accuracy", [rank <= 5 for rank in ranks]),
            ("mrr", [1 / rank for rank in ranks]),
        ):
            found.append(
                Measurement(metric, sum(values) / len(values), subset=category, examples=len(ranks), scale=100)
            )
    return found

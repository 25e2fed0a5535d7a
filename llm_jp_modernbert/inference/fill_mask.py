"""Predicts the masked tokens of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.terminal import printable
from llm_jp_modernbert.core.text_files import check_characters

from .loading import check_vocabulary, context_length
from .masked_logits import masked_logits, split

if TYPE_CHECKING:
    import torch
    from rich.console import RenderableType
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MASK_ALIASES = ("[MASK]", "<mask>", "{mask}")
"""Spellings of the mask in a text that are replaced by the tokenizer's mask token."""

ComputeLogits = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], "list[torch.Tensor]"]
"""Token ids of texts and positions in them → float32 logits `(positions, vocabulary)` of each text."""


@dataclass(frozen=True)
class Candidate:
    """A predicted token: its readable text, its spelling in the vocabulary, its id and its probability (0 to 1)."""

    text: str
    token: str
    token_id: int
    probability: float


@dataclass(frozen=True)
class FilledText:
    """A text and the candidates for each of its masks.

    Attributes:
        text: the text, with the tokenizer's mask token.
        masks: for each mask in reading order, its candidates in descending order of probability. Masks are predicted
            independently of each other.
    """

    text: str
    masks: tuple[tuple[Candidate, ...], ...]


def with_mask_token(text: str, mask_token: str) -> str:
    """Replaces `[MASK]`, `<mask>` and `{mask}` by the tokenizer's mask token."""
    for alias in MASK_ALIASES:
        text = text.replace(alias, mask_token)
    return text


def fill_masks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    top_k: int = 5,
    problems: Callable[[int, UsageError], None] | None = None,
) -> list[FilledText]:
    """Predicts the masked tokens of texts with a model of torch; see `predict_masks`.

    Args:
        model: a masked language model.
        tokenizer, texts, top_k, problems: as for `predict_masks`.
    """
    return predict_masks(partial(masked_logits, model), model.config, tokenizer, texts, top_k, problems)


def predict_masks(
    compute_logits: ComputeLogits,
    config: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    top_k: int = 5,
    problems: Callable[[int, UsageError], None] | None = None,
    padding: float = 0.0,
    tokens_per_batch: int = 8192,
    progress: Callable[[float], None] | None = None,
) -> list[FilledText]:
    """Predicts the masked tokens of texts.

    Args:
        compute_logits: the model; takes and returns what `masked_logits` does, except for its first argument.
        config: the model's configuration.
        tokenizer: its tokenizer.
        texts: texts with at least one mask, written as the tokenizer's mask token or one of `MASK_ALIASES`.
        top_k: number of candidates per mask.
        problems: callback invoked with the index of each text without a mask, above the context length or with lone
            surrogates, and its error; if None, such texts raise.
        padding: cost of padding in `compute_logits`; see `split`.
        tokens_per_batch: maximum tokens of a batch.
        progress: called with the completed share.

    Returns:
        The texts in their order, without those passed to `problems`.

    Raises:
        UsageError: a text cannot be used, the tokenizer has no mask token or more tokens than the model, or `top_k` is
            not between 1 and the vocabulary size.
    """
    check_vocabulary(config, tokenizer)
    if not 1 <= top_k <= len(tokenizer):
        raise UsageError(f"top-k is {top_k}; it must be from 1 to {len(tokenizer)}, the vocabulary size.")
    if tokenizer.mask_token is None:
        raise UsageError(f"the tokenizer {tokenizer.name_or_path} has no mask token. Name another with --tokenizer.")
    limit = context_length(config, tokenizer)
    masked, encoded = [], []
    for index, text in enumerate(texts):
        try:
            ids = _encode(with_mask_token(text, tokenizer.mask_token), tokenizer, limit)
        except UsageError as error:
            if problems is None:
                raise UsageError(f"text {index + 1} ({text[:20]}{'…' if text[20:] else ''}) {error}") from None
            problems(index, error)
            continue
        masked.append(with_mask_token(text, tokenizer.mask_token))
        encoded.append(ids)
    results: dict[int, FilledText] = {}
    for batch in split([len(ids) for ids in encoded], tokens_per_batch, padding):
        rows = [encoded[index] for index in batch]
        positions = [[index for index, token in enumerate(ids) if token == tokenizer.mask_token_id] for ids in rows]
        for index, logits in zip(batch, compute_logits(rows, positions), strict=True):
            candidates = tuple(_candidates(tokenizer, mask_logits, top_k) for mask_logits in logits)
            results[index] = FilledText(masked[index], candidates)
        if progress is not None:
            progress(len(results) / len(encoded))
    return [results[index] for index in range(len(encoded))]


def render(result: FilledText, mask_token: str) -> RenderableType:
    """A table of candidates for each mask of a text."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    tables: list[RenderableType] = [Text(printable(result.text.replace(mask_token, MASK_ALIASES[0])), style="bold")]
    for number, candidates in enumerate(result.masks, start=1):
        title = None if len(result.masks) == 1 else f"mask {number} of {len(result.masks)}"
        table = Table("", "candidate", "probability", "", title=title, title_justify="left", box=None)
        for rank, candidate in enumerate(candidates, start=1):
            bar = "█" * round(20 * candidate.probability)
            text = Text(printable(candidate.text))
            table.add_row(str(rank), text, f"{candidate.probability:7.2%}", Text(bar, style="green"))
        tables.append(table)
    return Group(*tables)


def readable(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """Readable text of a token; bytes and whitespace are shown as in the vocabulary."""
    token = str(tokenizer.convert_ids_to_tokens(token_id))
    text = str(tokenizer.decode([token_id]))
    if not text.strip() or not text.isprintable() or "\ufffd" in text:
        return token
    return text


def _encode(text: str, tokenizer: PreTrainedTokenizerBase, limit: int) -> list[int]:
    try:
        check_characters(text)
    except UsageError as error:
        raise UsageError(f"has {error}") from None
    ids: list[int] = tokenizer(text, verbose=False)["input_ids"]
    if tokenizer.mask_token_id not in ids:
        raise UsageError(f"has no mask. Write {' or '.join(MASK_ALIASES)} for the missing token.")
    if len(ids) > limit:
        raise UsageError(f"has {len(ids):,} tokens, but the context length is {limit:,}. Shorten it.")
    return ids


def _candidates(tokenizer: PreTrainedTokenizerBase, logits: torch.Tensor, top_k: int) -> tuple[Candidate, ...]:
    """The best candidates for one mask, from its logits `(vocabulary,)`."""
    # The vocabulary may be padded beyond the tokenizer's: padding rows are not tokens.
    best = logits[: len(tokenizer)].topk(top_k)
    probabilities = (best.values - logits.logsumexp(-1)).exp().tolist()
    return tuple(
        Candidate(readable(tokenizer, token_id), str(tokenizer.convert_ids_to_tokens(token_id)), token_id, probability)
        for token_id, probability in zip(best.indices.tolist(), probabilities, strict=True)
    )

"""Remove tokens from the Unigram vocabulary of a fast tokenizer, or add some.

Scores of existing tokens never change. So a text whose best split uses only tokens that stay is split as before: the
remaining splits are a subset of those that it won against.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerBase

from llm_jp_modernbert.core.errors import UsageError

from .layout import BYTE_PIECES, SPACE, is_encoder_form, set_encoder_form

# Share of the removable tokens that stay in each round of pruning, as in SentencePiece.
_SHRINKING = 0.75
# The tokenizers library scores a character that is in no piece this much below the lowest score.
_UNKNOWN_PENALTY = 10.0
# By how much a new piece wins against its split. Sums of a thousand scores differ by less in single precision.
_MARGIN = 0.1


@dataclass(frozen=True)
class NewPiece:
    """A piece to add.

    Attributes:
        piece: the piece, with `▁` for spaces.
        score: its score, a log-probability.
        parts: ids of the existing tokens that the piece is split into now.
    """

    piece: str
    score: float
    parts: tuple[int, ...]


@dataclass(frozen=True)
class Vocabulary:
    """A Unigram vocabulary.

    Attributes:
        backend: its tokenizer; it is not changed.

    Example:
        >>> vocabulary = Vocabulary.of(AutoTokenizer.from_pretrained("ORG/NAME"))
        >>> vocabulary.trimmed(vocabulary.most_used(counts, size=50_000)).save("tokenizer.json")
    """

    backend: Tokenizer

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
        """The vocabulary of a tokenizer of transformers.

        Raises:
            UsageError: the tokenizer is slow, or its model is not Unigram.
        """
        name = tokenizer.name_or_path or type(tokenizer).__name__
        if not tokenizer.is_fast:
            raise UsageError(f"{name}: a slow tokenizer. Only vocabularies in a tokenizer.json can be changed.")
        backend = tokenizer.backend_tokenizer
        if not isinstance(backend.model, Unigram):
            raise UsageError(
                f"{name}: a {type(backend.model).__name__} tokenizer. Only Unigram vocabularies can be changed."
            )
        if json.loads(backend.to_str())["model"]["unk_id"] is None:
            raise UsageError(f"{name}: has no token for unknown characters (unk_id in its tokenizer.json).")
        return cls(backend)

    @cached_property
    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.backend.to_str())
        return content

    @cached_property
    def pieces(self) -> list[str]:
        """All tokens in the order of their ids, those that were added to the model's vocabulary last."""
        return [piece for piece, _ in self._scored]

    @cached_property
    def _scored(self) -> list[tuple[str, float]]:
        scored = [(piece, float(score)) for piece, score in self._content["model"]["vocab"]]
        # A text contains such a token as a whole only, so its score does not matter.
        lowest = min(score for _, score in scored)
        added = {token["id"]: token["content"] for token in self._content["added_tokens"]}
        return scored + [(added[token_id], lowest) for token_id in sorted(added) if token_id >= len(scored)]

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each token."""
        return {piece: token_id for token_id, piece in enumerate(self.pieces)}

    @cached_property
    def protected(self) -> frozenset[int]:
        """Ids that always stay: special and added tokens, bytes and the space."""
        added = {token["id"] for token in self._content["added_tokens"]}
        added |= {token_id for token in _template(self._content).values() for token_id in token["ids"]}
        always = (self.ids[piece] for piece in (*BYTE_PIECES, SPACE) if piece in self.ids)
        return frozenset({*added, *always, self._unknown_id})

    def most_used(self, counts: npt.ArrayLike, size: int | None = None, min_count: int = 0) -> list[int]:
        """The ids of the tokens that serve a corpus best.

        Special tokens, bytes and all characters in use stay. The others are removed from the least used on, in
        rounds as in SentencePiece: the uses of a removed token then count for the tokens of its best split, so the
        next round ranks the tokens by their use in the text that is split again. Among tokens of equal use, those
        with the highest scores stay.

        Args:
            counts: `(tokens,)` uses of each token in the corpus.
            size: number of tokens that stay; by default as many as have `min_count` uses.
            min_count: tokens with fewer uses are removed.

        Returns:
            The ids in ascending order.

        Raises:
            UsageError: `size` exceeds the vocabulary, or is smaller than the number of tokens that must stay.
        """
        uses = np.asarray(counts, dtype=np.int64)
        characters = set().union(*(self.pieces[token_id] for token_id in np.flatnonzero(uses)))
        fixed = self.protected | {self.ids[character] for character in characters if character in self.ids}
        total = len(self.pieces)
        if size is not None and size > total:
            raise UsageError(f"{size:,} tokens cannot stay: the vocabulary has only {total:,}.")
        if size is not None and size < len(fixed):
            characters_in_use = len(fixed) - len(self.protected)
            raise UsageError(
                f"{size:,} tokens are too few: {len(fixed):,} must stay, which are {len(self.protected):,} special "
                f"tokens and bytes, and {characters_in_use:,} characters in use. Name a larger --size or --share."
            )
        return self._pruned(uses, fixed, total if size is None else size, min_count, np.ones(total))

    def _pruned(
        self, counts: npt.NDArray[np.int64], fixed: Collection[int], size: int, min_count: int, worth: npt.ArrayLike
    ) -> list[int]:
        """The ids of the fixed tokens and of those with the highest use × worth."""
        uses, worth = counts.astype(np.float64), np.asarray(worth)
        scores = np.array([score for _, score in self._scored])
        left = np.setdiff1d(np.arange(len(scores)), list(fixed))
        while True:
            left = left[np.lexsort((left, -scores[left], -uses[left] * worth[left], uses[left] < min_count))]
            goal = min(size - len(fixed), int((uses[left] >= min_count).sum()))
            if len(left) <= goal:
                return sorted((*fixed, *left.tolist()))
            stay = max(goal, int(len(left) * _SHRINKING))
            left, removed = left[:stay], left[stay:]
            split = self._splitter([*fixed, *left.tolist()])
            for token_id in removed[uses[removed] > 0]:
                for part in split(self.pieces[token_id]):
                    uses[part] += uses[token_id]

    def _splitter(self, kept: Iterable[int]) -> Any:
        """A function that splits a piece into the ids of some of the tokens."""
        model = self._model([self._scored[token_id] for token_id in sorted(kept)])
        return lambda piece: [self.ids.get(token.value, self._unknown_id) for token in model.tokenize(piece)]

    def _model(self, scored: Sequence[tuple[str, float]]) -> Unigram:
        unknown = self.pieces[self._unknown_id]
        place = next(place for place, (piece, _) in enumerate(scored) if piece == unknown)
        return Unigram(list(scored), place, bool(self._content["model"].get("byte_fallback")))

    @property
    def _unknown_id(self) -> int:
        return int(self._content["model"]["unk_id"])

    def trimmed(self, kept: Sequence[int]) -> Tokenizer:
        """The tokenizer with some of the tokens, numbered in the order of `kept`.

        Args:
            kept: ids in ascending order, among them all of `protected`.
        """
        size = len(self._content["model"]["vocab"])
        vocabulary = [self._scored[token_id] for token_id in kept if token_id < size]
        return self._rebuilt(vocabulary, {token_id: place for place, token_id in enumerate(kept)})

    def lengths(self, pieces: Iterable[str]) -> dict[str, int]:
        """The number of tokens that each piece is split into now."""
        split = self._splitter(range(len(self.pieces)))
        return {piece: len(split(piece)) for piece in pieces}

    def new_pieces(self, counts: Mapping[str, int], total: int) -> list[NewPiece]:
        """Scores of pieces to add, with which the best split of a text uses them.

        The score of a piece is the log of its share of the tokens, as in any Unigram vocabulary (Kudo 2018, arXiv
        1804.10959, section 3.2). If the best split of the piece alone, into existing and other new pieces, has a
        higher score, then the piece gets that score and a small margin. So the piece always wins where a text would
        be split at its ends, and a frequent one also where another token would cross them. No score is below the
        lowest existing one, on which the score of unknown characters depends.

        Args:
            counts: uses of each piece in a corpus; 0 if unknown. Pieces have `▁` for spaces.
            total: tokens of the corpus.

        Returns:
            The pieces in the order of `counts`.
        """
        lowest = min(score for _, score in self._scored)
        scores = {piece: max(lowest, math.log(count / total) if count else lowest) for piece, count in counts.items()}
        pending = list(counts)
        # A raised score may let a piece win in a longer one, but never in a shorter one, so this ends.
        while pending:
            scored = [*self._scored, *scores.items()]
            known, model = dict(scored), self._model(scored)
            splits = {piece: [token.value for token in model.tokenize(piece)] for piece in counts}
            pending = [piece for piece in counts if splits[piece] != [piece]]
            for piece in pending:
                scores[piece] = max(lowest, _path_score(splits[piece], known, lowest - _UNKNOWN_PENALTY)) + _MARGIN
        split = self._splitter(range(len(self.pieces)))
        return [NewPiece(piece, scores[piece], tuple(split(piece))) for piece in counts]

    def most_saving(self, new: Sequence[NewPiece], counts: npt.ArrayLike, number: int, min_count: int) -> list[int]:
        """Places of those new pieces that save the most tokens: uses × (tokens of the split - 1).

        The others are removed in rounds as in `most_used`, so a piece within longer ones is not counted twice.

        Args:
            new: candidates.
            counts: `(tokens + candidates,)` uses of each token in a corpus that is split with all candidates.
            number: maximum number of pieces.
            min_count: pieces with fewer uses are removed.
        """
        size = len(self.pieces)
        extended = Vocabulary(self.extended(new))
        worth = np.array([0] * size + [len(piece.parts) - 1 for piece in new])
        kept = extended._pruned(np.asarray(counts), range(size), size + number, min_count, worth)
        return [token_id - size for token_id in kept if token_id >= size]

    def extended(self, new: Sequence[NewPiece]) -> Tokenizer:
        """The tokenizer with more tokens; their ids follow the existing ones, which do not change."""
        vocabulary = [*self._scored, *((piece.piece, piece.score) for piece in new)]
        return self._rebuilt(vocabulary, {token_id: token_id for token_id in range(len(self.pieces))})

    def piece_of(self, text: str) -> str:
        """A text as a piece: normalized as by the tokenizer, and without the space that it puts before a text."""
        normalizer = self.backend.normalizer
        normalized = text if normalizer is None else normalizer.normalize_str(text)
        return normalized.replace(" ", SPACE).strip(SPACE)

    def _rebuilt(self, vocabulary: Sequence[tuple[str, float]], new_ids: Mapping[int, int]) -> Tokenizer:
        content = json.loads(self.backend.to_str())
        model = content["model"]
        model["vocab"] = vocabulary
        model["unk_id"] = new_ids[model["unk_id"]]
        for token in content["added_tokens"]:
            token["id"] = new_ids[token["id"]]
        for token in _template(content).values():
            token["ids"] = [new_ids[token_id] for token_id in token["ids"]]
        backend = Tokenizer.from_str(json.dumps(content, ensure_ascii=False))
        if is_encoder_form(self.backend):
            # Its pre-tokenizer depends on the pieces.
            set_encoder_form(backend)
        return backend


def _template(content: Mapping[str, Any]) -> dict[str, Any]:
    """The tokens that a template puts around a text, in the content of a tokenizer.json."""
    template: dict[str, Any] = (content["post_processor"] or {}).get("special_tokens", {})
    return template


def _path_score(parts: Sequence[str], scores: Mapping[str, float], lowest: float) -> float:
    """The score of a split, in which each character that is in no piece has the lowest score."""
    total = 0.0
    for is_byte, group in groupby(parts, key=BYTE_PIECES.__contains__):
        values = list(group)
        if is_byte:
            total += lowest * len(bytes(int(value[3:5], 16) for value in values).decode())
        else:
            total += sum(scores.get(value, lowest * len(value)) for value in values)
    return total

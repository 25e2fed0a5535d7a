"""Hold out training examples for validation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from llm_jp_modernbert.core.errors import UsageError

from .dataset import Example, Part

_MOST_HELD_OUT = 1_000
_FEWEST_HELD_OUT = 2
_DRAWS = 20
"""Draws of scored pairs until two have different scores."""
_ENDS = (re.compile(r"[。！？!?]+[」』）”]*\s*|\.[)”\"]*\s+|\n\s*"), re.compile(r"[、，,\s]\s*"))
"""Ends of sentences, and the places to cut a text that has one sentence."""


def hold_out(train: Part, seed: int, remarks: list[str]) -> tuple[Part, Part]:
    """Splits off a seeded tenth of the examples, 1,000 at most, so that no text is on both sides.

    Examples that share a query or a relevant passage stay together. Negatives of the one side that occur on the other
    side are removed. If almost all examples are connected by their passages, only queries are separate.

    Args:
        train: all training examples.
        seed: random seed.
        remarks: receives lines for the user.

    Returns:
        Training and validation examples. Texts alone validate as pairs of their two halves.

    Raises:
        UsageError: there are too few examples.
    """
    chosen = _choose(train, [(*example.passages[:1], example.query) for example in train.examples], seed)
    if not chosen:
        chosen = _choose(train, [(example.query,) for example in train.examples], seed)
        if not chosen:
            count = len({example.query for example in train.examples})
            raise UsageError(
                f"--train {train.name}: {count:,} different queries or texts are too few to hold some out for "
                "validation. Name a --validation file, or add examples."
            )
        remarks.append(
            "Almost all training examples share passages, so passages of the held-out queries are also training "
            "passages. Name a --validation file to measure on passages that are new."
        )
    kept = [index for index in range(len(train.examples)) if index not in chosen]
    train, held_out = selected(train, kept), selected(train, sorted(chosen))
    if train.form == "texts":
        return train, halves(held_out)
    if train.form in ("triplets", "distillation"):
        train = _without(train, {example.passages[0] for example in held_out.examples})
        with_negatives = [index for index, example in enumerate(train.examples) if len(example.passages) > 1]
        if removed := len(train.examples) - len(with_negatives):
            remarks.append(f"{removed:,} training examples are left out: all their negatives are held-out passages.")
            train = selected(train, with_negatives)
        held_out = _without(held_out, {text for example in train.examples for text in example.passages})
    return train, held_out


def selected(part: Part, indices: Sequence[int]) -> Part:
    """Some examples of a part."""
    examples, places = [part.examples[index] for index in indices], [part.places[index] for index in indices]
    return replace(part, examples=examples, places=places)


def halves(part: Part) -> Part:
    """Pairs of the two halves of each text, cut at the end of a sentence."""
    cut = [(half(example.query), place) for example, place in zip(part.examples, part.places, strict=True)]
    pairs = [(Example(first, (second,)), place) for (first, second), place in cut if first and second]
    if len(pairs) < _FEWEST_HELD_OUT:
        raise UsageError(f"{part.name}: its texts are too short to validate on their two halves. Name other files.")
    return replace(part, form="pairs", examples=[pair for pair, _ in pairs], places=[place for _, place in pairs])


def half(text: str) -> tuple[str, str]:
    """The two halves of a text, cut at the end of the sentence that is nearest to its middle."""
    text = text.strip()
    for pattern in _ENDS:
        cuts = [match.end() for match in pattern.finditer(text) if match.end() < len(text)]
        if cuts:
            cut = min(cuts, key=lambda place: abs(2 * place - len(text)))
            return text[:cut].strip(), text[cut:].strip()
    return text[: len(text) // 2], text[len(text) // 2 :]


def _choose(train: Part, texts: Sequence[tuple[str, ...]], seed: int) -> set[int]:
    """Indices of about a tenth of the examples; those that share a text are chosen together. Empty if impossible."""
    groups = _groups(texts)
    if len(groups) < 2 * _FEWEST_HELD_OUT:
        return set()
    wanted = min(max(-(-len(texts) // 10), _FEWEST_HELD_OUT), _MOST_HELD_OUT)
    # A group that holds much of the data stays in training.
    largest = max(wanted, sorted(map(len, groups))[_FEWEST_HELD_OUT - 1])
    groups = [group for group in groups if len(group) <= largest]
    generator = np.random.default_rng(seed)
    for _ in range(_DRAWS):
        chosen: list[list[int]] = []
        for number in generator.permutation(len(groups)).tolist():
            if sum(map(len, chosen)) >= wanted and len(chosen) >= _FEWEST_HELD_OUT:
                break
            chosen.append(groups[number])
        indices = set(chain.from_iterable(chosen))
        # Correlations need two different scores.
        if train.form != "scored" or len({train.examples[index].scores for index in indices}) > 1:
            break
    return indices


def _groups(texts: Sequence[Iterable[str]]) -> list[list[int]]:
    """Indices of the examples that are connected by equal texts."""
    parents: dict[str, str] = {}

    def root(text: str) -> str:
        parents.setdefault(text, text)
        while parents[text] != text:
            parents[text] = text = parents[parents[text]]
        return text

    for first, *others in texts:
        for other in others:
            parents[root(other)] = root(first)
    groups: dict[str, list[int]] = {}
    for index, (first, *_) in enumerate(texts):
        groups.setdefault(root(first), []).append(index)
    return list(groups.values())


def _without(part: Part, removed: set[str]) -> Part:
    return replace(part, examples=[without_negatives(example, removed) for example in part.examples])


def without_negatives(example: Example, removed: set[str]) -> Example:
    """An example without the negatives that are in a set of texts, and without their scores."""
    kept = [0, *(index for index, text in enumerate(example.passages) if index and text not in removed)]
    scores = tuple(example.scores[index] for index in kept) if example.scores else ()
    return replace(example, passages=tuple(example.passages[index] for index in kept), scores=scores)

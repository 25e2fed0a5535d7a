"""Where a text may have two splits of nearly the same score."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

# Characters of a unit whose repetitions are looked for. Runs of one character tie in pairs of pieces.
_UNITS = range(2, 9)


class Ties:
    """The ties of a Unigram vocabulary.

    Two pieces tie where the same text is two other pieces, or one, of the same score: `XXX` and `X` are also `X` and
    `XXX`. Longer chains of pieces hold such a pair, or a repetition, or tie by chance.

    Args:
        vocabulary: `(piece, score)` in the order of the ids.
        difference: of scores that counts as none.
    """

    def __init__(self, vocabulary: Sequence[tuple[str, float]], difference: float) -> None:
        self._size = len(vocabulary)
        firsts, seconds = _pairs(vocabulary, difference)
        self._keys = np.unique(firsts * self._size + seconds)
        self._firsts, self._seconds = np.zeros(self._size, dtype=bool), np.zeros(self._size, dtype=bool)
        self._firsts[firsts] = self._seconds[seconds] = True

    def find(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.intp]:
        """Where a tie begins.

        Args:
            ids: `(tokens,)`.

        Returns:
            Positions of the first token of each pair that ties, in order.
        """
        positions = np.flatnonzero(self._firsts[ids[:-1]] & self._seconds[ids[1:]])
        keys = ids[positions].astype(np.int64) * self._size + ids[positions + 1]
        nearest = np.searchsorted(self._keys[:-1], keys)
        return positions[self._keys[nearest] == keys]


def find_repetitions(text: str, joined: Collection[str]) -> list[int]:
    """Where a unit of a few characters is there three times in a row, and may be split anywhere.

    The pieces that it is split into can then change places without changing the score, such as `b|aba|ba` and
    `ba|b|aba`: three of them where one has the length of some units and the two others together. If they were only two
    units long, one of the pieces would be the text of the others, and better or worse than them.

    Args:
        text: with `▁` for spaces.
        joined: every two characters that are neighbours in some piece. None moves across any others.

    Returns:
        Positions in the text, of every character that such a run can be said to begin with.
    """
    characters = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    changes = characters[1:] != characters[:-1]
    found: list[int] = []
    for unit in _UNITS:
        run, length = characters[unit:] == characters[:-unit], 1
        while length < 2 * unit:
            step = min(length, 2 * unit - length)
            run, length = run[:-step] & run[step:], length + step
        begins = np.flatnonzero(run)
        for begin in begins[changes[begins[:, None] + np.arange(unit - 1)].any(axis=1)].tolist():
            if all(text[at : at + 2] in joined for at in range(begin, begin + unit)):
                found.append(begin)
    return found


def _pairs(
    vocabulary: Sequence[tuple[str, float]], difference: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First and second ids of the pairs that tie: of a|bc with ab|c, and of a|b with ab."""
    ids = {piece: token_id for token_id, (piece, _) in enumerate(vocabulary)}
    scores = np.array([score for _, score in vocabulary])
    middles: dict[str, int] = {}
    # One after the other: the number of b, a and ab; the number of b, c and bc; both parts and the whole.
    endings: list[int] = []
    beginnings: list[int] = []
    whole: list[int] = []
    for piece, token_id in ids.items():
        for cut in range(1, len(piece)):
            before, after = piece[:cut], piece[cut:]
            head, tail = ids.get(before), ids.get(after)
            if head is not None:
                endings += middles.setdefault(after, len(middles)), head, token_id
            if tail is not None:
                beginnings += middles.setdefault(before, len(middles)), tail, token_id
            if head is not None and tail is not None:
                whole += head, tail, token_id
    first, second, both = _columns(whole)
    same = np.abs(scores[first] + scores[second] - scores[both]) <= difference
    # Both splits have the same score where ab is as much better than a as bc is than c. Those of one b are sorted
    # together, further from the others than any two scores are from each other.
    apart = 4 * np.abs(scores).max() + 1
    middle, a, ab = _columns(endings)
    wanted = middle * apart + scores[ab] - scores[a]
    middle, c, bc = _columns(beginnings)
    offered = middle * apart + scores[bc] - scores[c]
    order = np.argsort(offered)
    lows, highs = (np.searchsorted(offered[order], wanted + sign * difference) for sign in (-1, 1))
    counts = highs - lows
    ending = np.repeat(np.arange(len(wanted)), counts)
    beginning = order[np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + lows[ending]]
    return (
        np.concatenate([first[same], a[ending], ab[ending]]),
        np.concatenate([second[same], bc[beginning], c[beginning]]),
    )


def _columns(triples: list[int]) -> npt.NDArray[np.int64]:
    return np.array(triples, dtype=np.int64).reshape(-1, 3).T

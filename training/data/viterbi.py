"""The split of a text of the highest score, found with the tokenizers library's own arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

# What a character that no piece stands for scores less than the worst piece.
_UNKNOWN_PENALTY = 10.0


class Viterbi:
    """A Unigram vocabulary's search in double precision, which decides ties as the tokenizers library does.

    Of two splits with the same score, the rounding of the sums decides, or the order in which they are met. Both are
    those of the library: scores are added from the beginning of the text on, pieces are tried from left to right, and
    a later split replaces an earlier one only with a higher sum.

    Args:
        vocabulary: `(piece, score)` in the order of the ids, with a piece `<0x00>` to `<0xFF>` for each byte.

    Attributes:
        unknown: score of a character that is split into its bytes.
        bytes: ids of the 256 bytes.
    """

    def __init__(self, vocabulary: Sequence[tuple[str, float]]) -> None:
        # What only begins a piece is there as well, so that a search ends where nothing longer can follow.
        self._pieces = dict.fromkeys(
            (piece[:end] for piece, _ in vocabulary for end in range(1, len(piece))), (float("-inf"), -1)
        )
        self._pieces.update((piece, (score, token_id)) for token_id, (piece, score) in enumerate(vocabulary))
        self._characters = {piece for piece, _ in vocabulary if len(piece) == 1}
        self.unknown = min(score for _, score in vocabulary) - _UNKNOWN_PENALTY
        self.bytes = [self._pieces[f"<0x{byte:02X}>"][1] for byte in range(256)]

    def split(self, text: str, score: float = 0.0) -> tuple[list[int], float]:
        """Splits a part of a text.

        Args:
            text: with `▁` for spaces; no piece reaches over its ends.
            score: sum of the scores of the tokens before it.

        Returns:
            The ids, and the sum of the scores up to the end.
        """
        size, pieces = len(text), self._pieces
        best = [score, *[float("-inf")] * size]
        starts, ids = [0] * (size + 1), [-1] * (size + 1)
        for start in range(size):
            so_far = best[start]
            for end in range(start + 1, size + 1):
                found = pieces.get(text[start:end])
                if found is None:
                    break
                total = so_far + found[0]
                if total > best[end]:
                    best[end], starts[end], ids[end] = total, start, found[1]
            total = so_far + self.unknown
            if total > best[start + 1] and text[start] not in self._characters:
                best[start + 1], starts[start + 1], ids[start + 1] = total, start, -1
        backwards: list[int] = []
        end = size
        while end:
            start = starts[end]
            if ids[end] < 0:
                backwards.extend(self.bytes[byte] for byte in reversed(text[start:end].encode()))
            else:
                backwards.append(ids[end])
            end = start
        return backwards[::-1], best[size]

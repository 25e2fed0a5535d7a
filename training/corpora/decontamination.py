"""Sentences of evaluation texts, and documents that contain them."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.text_files import parse_object, read_text

from .measures import ngram_hashes, skeleton

_SUFFIXES = tuple(suffix + end for suffix in (".json", ".jsonl", ".txt") for end in ("", ".gz", ".zst"))
# Masks of fill-mask prompts end a sentence as well.
_END = re.compile(r"[。！？!?\n]|\[MASK\]")

Sentence = tuple[str, str]
"""Name of a file, and the letters and digits of a sentence in it."""


def evaluation_sentences(patterns: Sequence[str], min_characters: int) -> list[Sentence]:
    """The sentences of evaluation texts, each once.

    Args:
        patterns: files or glob patterns of JSON, JSON lines (all strings in them) or text.
        min_characters: shorter sentences are left out.

    Raises:
        UsageError: a pattern matches no file, a file is unreadable, or all sentences are shorter.
    """
    sentences: dict[str, str] = {}
    for pattern in patterns:
        matches = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
        files = [match for match in matches if os.path.isfile(match)]
        if not files:
            raise UsageError(f"decontamination.texts: {pattern}: no such file, and no file matches it as a pattern.")
        for file in files:
            name = Path(file).name
            for text in _strings(file):
                for part in _END.split(text):
                    letters = skeleton(part)
                    if len(letters) >= min_characters:
                        sentences.setdefault(letters, name)
    if not sentences:
        raise UsageError(f"decontamination.texts: no sentence has {min_characters} characters.")
    return [(file, sentence) for sentence, file in sentences.items()]


def _strings(file: str) -> Iterator[str]:
    if not file.endswith(_SUFFIXES):
        raise UsageError(f"{file}: unsupported file type. Supported: {', '.join(_SUFFIXES)}.")
    text = read_text(file)
    if ".json" not in Path(file).name:
        yield text
        return
    try:
        values = [json.loads(text)]
    except ValueError:
        # One object per line.
        values = [parse_object(line) for line in text.split("\n") if line.strip()]
    while values:
        value: Any = values.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, (dict, list)):
            values += value.values() if isinstance(value, dict) else value


class SentenceIndex:
    """Finds sentences in documents by their character n-grams.

    Args:
        sentences: letters and digits of each sentence.
        characters: length of the n-grams in characters.
        share: share of the n-grams of a sentence that a document must contain.
    """

    def __init__(self, sentences: Sequence[str], characters: int, share: float) -> None:
        self.characters = characters
        lengths = np.array(list(map(len, sentences)))
        counts = np.maximum(0, lengths - characters + 1)
        owners = np.repeat(np.arange(len(sentences)), counts)
        # All at once; the n-grams over the ends of sentences are left out.
        starts = np.cumsum(lengths) - lengths
        places = np.arange(counts.sum()) + (starts - (np.cumsum(counts) - counts))[owners]
        hashes = ngram_hashes("".join(sentences), characters)[places]
        order = np.lexsort((owners, hashes))
        owners, hashes = owners[order], hashes[order]
        is_new = np.append(True, (np.diff(hashes) != 0) | (np.diff(owners) != 0))
        self._owners, hashes = owners[is_new], hashes[is_new]
        self._hashes, self._starts = np.unique(hashes, return_index=True)
        self._ends = np.append(self._starts[1:], len(hashes))
        self._needed = np.maximum(1, np.ceil(share * np.bincount(self._owners, minlength=len(sentences)) - 1e-9))

    def find(self, text: str) -> int | None:
        """The number of the first sentence that a text contains, or None."""
        hashes = np.unique(ngram_hashes(skeleton(text), self.characters))
        places = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        places = places[self._hashes[places] == hashes]
        if not len(places):
            return None
        owners = np.concatenate([self._owners[self._starts[place] : self._ends[place]] for place in places])
        found, counts = np.unique(owners, return_counts=True)
        matching = found[counts >= self._needed[found]]
        return int(matching[0]) if len(matching) else None

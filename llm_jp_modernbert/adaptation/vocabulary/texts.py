"""The texts of a domain, read document by document, and the part of them that is held out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import fingerprint
from llm_jp_modernbert.core.progress import progress_bar
from llm_jp_modernbert.core.terminal import console
from llm_jp_modernbert.training.data.encoding import Encoder
from llm_jp_modernbert.training.data.masking import sample_keys
from llm_jp_modernbert.training.data.order import DocumentOrder, FileShard, Source
from llm_jp_modernbert.training.data.sources import sources_of

from .options import VocabularyOptions
from .record import Texts

# Share of the documents that is held out, until it has this number of characters.
_HELD_OUT = 0.05
_HELD_OUT_CHARACTERS = 200_000
# Characters that are encoded at once, and files that are open at a time.
_BATCH = 1_000_000
_OPEN_FILES = 64


class Domain:
    """The texts of a domain without the held-out documents.

    Args:
        options: the options of the command.

    Attributes:
        held_out: the held-out documents, truncated to 200,000 characters in all.

    Raises:
        UsageError: a file or a row cannot be read, the texts are already tokenized, or there is a single document and
            no held-out text.
    """

    def __init__(self, options: VocabularyOptions) -> None:
        (self._source,) = sources_of(list(options.texts), options.text_column, "--texts")
        self._seed, self._names = options.seed, options.texts
        self._places: set[tuple[int, int]] = set()
        self.held_out: list[str] = []
        self._held_out_source, self._held_out_names = self._source, options.texts
        self._documents = self._characters = 0
        if options.validation:
            (self._held_out_source,) = sources_of(list(options.validation), options.text_column, "--validation")
            self._held_out_names = options.validation
            for _, text in _read(self._held_out_source, "--validation"):
                if not self._hold_out(text):
                    break
        else:
            self._choose()

    def _choose(self) -> None:
        """Holds out documents; the first never, and the second always, so that both parts have one."""
        for number, (place, text) in enumerate(_read(self._source, "--texts")):
            key = sample_keys(self._seed, np.array([place]))[0]
            if number == 1 or (number and float(key) < _HELD_OUT * 2.0**64):
                if not self._hold_out(text):
                    break
                self._places.add(place)
        if not self.held_out:
            raise UsageError(
                "--texts holds a single document. Add documents, or name held-out text with --validation."
            )

    def _hold_out(self, text: str) -> bool:
        room = _HELD_OUT_CHARACTERS - sum(map(len, self.held_out))
        if room > 0:
            self.held_out.append(text[:room])
        return room > 0

    def batches(self, description: str) -> Iterator[list[str]]:
        """Yields the documents in batches and shows a progress bar."""
        self._documents, characters = 0, 0
        with progress_bar(console(), "{task.fields[done]}") as bar:
            task = bar.add_task(description, total=self._characters or None, done="")
            batch: list[str] = []
            size = 0
            for place, text in _read(self._source, "--texts"):
                if place in self._places:
                    continue
                batch.append(text)
                size += len(text)
                self._documents += 1
                if size >= _BATCH:
                    characters += size
                    yield batch
                    bar.update(task, completed=characters, done=f"{characters / 1e6:,.0f}M characters")
                    batch, size = [], 0
            self._characters = characters + size
            yield batch
            bar.update(task, total=self._characters, completed=self._characters)

    def counts(self, tokenizer: PreTrainedTokenizerBase, threads: int, description: str) -> npt.NDArray[np.int64]:
        """`(tokens,)` uses of each token."""
        encoder = Encoder(tokenizer, threads)
        counts = np.zeros(len(tokenizer), dtype=np.int64)
        for batch in self.batches(description):
            for ids in encoder.encode(batch):
                counts += np.bincount(ids, minlength=len(counts))
        return counts

    def described(self) -> Texts:
        """Name and size of the texts that were read, without the held-out documents."""
        return _described(self._names, self._source, self._documents, self._characters)

    def described_held_out(self) -> Texts:
        """Name and size of the held-out documents."""
        characters = sum(map(len, self.held_out))
        return _described(self._held_out_names, self._held_out_source, len(self.held_out), characters)


def _read(source: Source, option: str) -> Iterator[tuple[tuple[int, int], str]]:
    """Place and text of each document, one of each file in turn."""
    order = DocumentOrder([source], 0, shuffle=False, interleave=min(len(source.shards), _OPEN_FILES))
    while (item := order.next()) is not None:
        place, document = item
        if document.ids is not None:
            raise UsageError(f"{option}: {document.path} is already tokenized. Name the texts that it was made from.")
        yield (place.shard, place.row), document.text


def _described(names: Sequence[str], source: Source, documents: int, characters: int) -> Texts:
    files = [Path(shard.name) for shard in source.shards if isinstance(shard, FileShard)]
    return {
        "name": "+".join(Path(name).name or name for name in names),
        "revision": fingerprint(files) if len(files) == len(source.shards) else "",
        "documents": documents,
        "characters": characters,
    }

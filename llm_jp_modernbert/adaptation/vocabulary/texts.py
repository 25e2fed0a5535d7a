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
from llm_jp_modernbert.training.data.order import DocumentOrder, FileShard, Source, text_digest
from llm_jp_modernbert.training.data.sources import sources_of

from ..texts import Sample
from .options import VocabularyOptions
from .record import Texts

# Share of the documents that is held out, and their least number; the most characters, in all and of a document.
_HELD_OUT, _FEWEST = 0.05, 2
_HELD_OUT_CHARACTERS, _LONGEST = 200_000, 20_000
# Characters that are encoded at once, and files that are open at a time.
_BATCH = 1_000_000
_OPEN_FILES = 64


class Domain:
    """The texts of a domain without the held-out documents.

    Args:
        options: the options of the command.

    Attributes:
        held_out: a random sample of documents, truncated to 200,000 characters in all. Copies are not read either.

    Raises:
        UsageError: a file or a row cannot be read, the texts are already tokenized, or there is a single document and
            no held-out text.
    """

    def __init__(self, options: VocabularyOptions) -> None:
        (self._source,) = sources_of(list(options.texts), options.text_column, "--texts")
        self._names, self._held_out_names = options.texts, options.validation or options.texts
        self._held_out_source, option = self._source, "--texts"
        if options.validation:
            option = "--validation"
            (self._held_out_source,) = sources_of(list(options.validation), options.text_column, option)
        sample, documents = Sample(options.seed), 0
        for text in _read(self._held_out_source, option):
            sample.add(text)
            documents += 1
        most = len(sample.counts)
        if not options.validation:
            most = min(max(_FEWEST, int(_HELD_OUT * documents)), most - 1)
            if not most:
                raise UsageError(
                    "--texts holds a single document or copies of one. Add documents, or name held-out text with "
                    "--validation. In a text file, blank lines separate documents."
                )
        self.held_out: list[str] = []
        self._digests: set[bytes] = set()
        self._documents = self._characters = 0
        for text in sample.lowest(most)[0]:
            room = _HELD_OUT_CHARACTERS - sum(map(len, self.held_out))
            if room > 0:
                self.held_out.append(text[: min(room, _LONGEST)])
                self._digests.add(text_digest(text))

    def batches(self, description: str) -> Iterator[list[str]]:
        """Yields the documents in batches and shows a progress bar."""
        self._documents, characters = 0, 0
        with progress_bar(console(), "{task.fields[done]}") as bar:
            task = bar.add_task(description, total=self._characters or None, done="")
            batch: list[str] = []
            size = 0
            for text in _read(self._source, "--texts"):
                if text_digest(text) in self._digests:
                    continue
                batch.append(text)
                size += len(text)
                self._documents += 1
                if size >= _BATCH:
                    characters += size
                    yield batch
                    bar.update(task, completed=characters, done=f"{characters / 1e6:,.0f}M characters")
                    batch, size = [], 0
            if not self._documents:
                raise UsageError(
                    "--texts: all of its documents are held out. Name other texts than with --validation."
                )
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


def _read(source: Source, option: str) -> Iterator[str]:
    """The text of each document, one of each file in turn."""
    order = DocumentOrder([source], 0, shuffle=False, interleave=min(len(source.shards), _OPEN_FILES))
    while (item := order.next()) is not None:
        document = item[1]
        if document.ids is not None:
            raise UsageError(f"{option}: {document.path} holds token ids. Name the texts that they were made of.")
        yield document.text


def _described(names: Sequence[str], source: Source, documents: int, characters: int) -> Texts:
    files = [Path(shard.name) for shard in source.shards if isinstance(shard, FileShard)]
    return {
        "name": "+".join(Path(name).name or name for name in names),
        "revision": fingerprint(files) if len(files) == len(source.shards) else "",
        "documents": documents,
        "characters": characters,
    }

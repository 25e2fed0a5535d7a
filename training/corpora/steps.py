"""Steps of datatrove pipelines that datatrove lacks: our readers, Japanese filters and character n-grams."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from datatrove.data import Document
from datatrove.io import get_datafolder, open_file
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.readers import ParquetReader
from datatrove.utils.word_tokenizers import WordTokenizer
from multiprocess.process import parent_process

from llm_jp_modernbert.training.data.readers import BadRow, read_rows

from .decontamination import Sentence, SentenceIndex
from .measures import MEASURES, hash64, ngram_hashes, skeleton
from .recipe import Decontamination
from .removed import Removed

Documents = Iterable[Document]

TRAIN, VALIDATION = "train", "validation"

# N-grams whose hashes are computed at a time.
_SHINGLES = 4096


def end_with_parent(data: Any, rank: int, world_size: int) -> Any:
    """First step of a local pipeline: ends this process with its parent, before the next job writes the same files."""
    parent = parent_process()
    if parent is not None:

        def wait() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=wait, daemon=True).start()
    return data


@dataclass(frozen=True)
class InputFile:
    """A file of the corpus: its path or URL, its size in bytes, the name of its source, and the column of texts."""

    path: str
    size: int
    source: str
    text_column: str


class ReadFiles(PipelineStep):
    """Reads the files of a task. Unreadable rows are counted and skipped.

    Args:
        files: the files of each task.
        removed: counter of unreadable rows.
    """

    type = "READER"
    name = "read"

    def __init__(self, files: list[list[InputFile]], removed: Removed) -> None:
        super().__init__()
        self.files = files
        self.removed = removed

    def run(self, data: Documents | None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yields the documents of the files of task `rank`."""
        with self.removed as removed:
            for file in self.files[rank]:
                for document in _documents(file):
                    if "filter_reason" in document.metadata:
                        removed.write(document, rank)
                    else:
                        self.update_doc_stats(document)
                        yield document


def _documents(file: InputFile) -> Iterator[Document]:
    name = f"{file.source}/{PurePosixPath(file.path).name}"
    for row in read_rows(file.path, file.text_column):
        if not isinstance(row, BadRow):
            yield Document(row.text, f"{name}:{row.row}", metadata={"source": file.source})
        elif not row.is_blank:
            yield Document("", f"{name}:{row.row}", metadata={"filter_reason": row.reason})


class ReadOwn(ParquetReader):
    """Reads the files that the same task of an earlier pipeline wrote."""

    name = "read cleaned documents"

    def run(self, data: Documents | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yields the documents of task `rank`."""
        if self.data_folder.exists(""):
            yield from self.read_files_shard(self.data_folder.list_files(glob_pattern=f"*_{rank:05d}.parquet"))


class Normalize(PipelineStep):
    """Applies a Unicode normalization form; documents that it changes are counted."""

    type = "FORMAT"
    name = "Unicode normalization"

    def __init__(self, form: str, changed: Removed) -> None:
        super().__init__()
        self.form: Any = form
        self.changed = changed

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yields the documents with normalized texts."""
        with self.changed as changed:
            for document in data:
                if not unicodedata.is_normalized(self.form, document.text):
                    changed.write(document, rank)
                    document.text = unicodedata.normalize(self.form, document.text)
                yield document


class RangeFilter(BaseFilter):
    """Keeps documents whose measure is within a range.

    Args:
        measure: key of `MEASURES`.
        minimum: least accepted value, or None.
        maximum: greatest accepted value, or None.
        removed: counter of the removed documents.
    """

    def __init__(self, measure: str, minimum: float | None, maximum: float | None, removed: Removed) -> None:
        super().__init__(exclusion_writer=removed)
        self.name = measure
        self.minimum = minimum
        self.maximum = maximum

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Whether to keep a document, or the measured value."""
        value = MEASURES[self.name](doc.text)
        is_low = self.minimum is not None and value < self.minimum
        is_high = self.maximum is not None and value > self.maximum
        if is_low or is_high:
            doc.metadata["filter_reason"] = f"{self.name} {value:.4g}"
            return False
        return True


class Characters(WordTokenizer):
    """Splits texts into characters, in place of datatrove's tokenizers of words."""

    def word_tokenize(self, text: str) -> list[str]:
        """The characters of a text."""
        return list(text)

    def sent_tokenize(self, text: str) -> list[str]:
        """The whole text."""
        return [text]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """The span of the whole text."""
        return [(0, len(text))]


class CharacterSignature(MinhashDedupSignature):
    """MinHash signatures of character n-grams, with memory that does not grow with a document."""

    def __init__(self, output_folder: str, config: MinhashConfig) -> None:
        super().__init__(output_folder, config, language=Characters())

    def get_shingles(self, text: str) -> npt.NDArray[np.uint64]:
        """`(n, 1)` hashes of the distinct n-grams."""
        return np.unique(ngram_hashes(skeleton(text), self.config.n_grams)).reshape(-1, 1)

    def get_signature(self, shingles: npt.NDArray[np.uint64]) -> list[list[int]]:
        """The minima of each band, over parts of the n-grams."""
        parts = [shingles[start : start + _SHINGLES] for start in range(0, len(shingles), _SHINGLES)]
        minima = np.min([super(CharacterSignature, self).get_signature(part) for part in parts], axis=0)
        return cast("list[list[int]]", minima.tolist())


class Decontaminate(BaseFilter):
    """Removes documents that contain a sentence of the evaluation texts.

    Args:
        sentences: JSON file of the sentences.
        settings: the settings of the recipe.
        removed: counter of the removed documents.
    """

    name = "decontamination"

    def __init__(self, sentences: str, settings: Decontamination, removed: Removed) -> None:
        super().__init__(exclusion_writer=removed)
        self.sentences = sentences
        self.settings = settings

    @cached_property
    def _index(self) -> tuple[list[Sentence], SentenceIndex]:
        with open_file(self.sentences, "r") as file:
            sentences = json.load(file)
        texts = [sentence for _, sentence in sentences]
        return sentences, SentenceIndex(texts, self.settings.characters, self.settings.share)

    def filter(self, doc: Document) -> bool:
        """Whether to keep a document."""
        sentences, index = self._index
        place = index.find(doc.text)
        if place is None:
            return True
        doc.metadata["filter_reason"] = ": ".join(sentences[place])
        return False


def text_of(document: Document) -> str:
    """The content by which exact duplicates are compared."""
    return document.text


class Split(PipelineStep):
    """Assigns documents to the training or validation split, by the hash of the text."""

    type = "SPLIT"
    name = "split"

    def __init__(self, validation_share: float) -> None:
        super().__init__()
        self.validation_share = validation_share

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yields the documents with their splits."""
        for document in data:
            is_held_out = hash64(document.text) < self.validation_share * 2**64
            document.metadata["split"] = VALIDATION if is_held_out else TRAIN
            yield document


class WritePart(PipelineStep):
    """Last step: writes counts and checksums of the files of a task.

    Args:
        output: directory of the corpus.
        parts: directory of the counts.
    """

    type = "WRITER"
    name = "part of the manifest"

    def __init__(self, output: str, parts: str) -> None:
        super().__init__()
        self.output = output
        self.parts = parts

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> None:
        """Counts all documents, then reads the files, which the writer has closed."""
        documents: Counter[str] = Counter()
        characters: Counter[str] = Counter()
        for document in data:
            split = document.metadata["split"]
            documents[split] += 1
            characters[split] += len(document.text)
        output = get_datafolder(self.output)
        files = []
        for split in documents:
            for name in output.list_files(split, glob_pattern=f"*_{rank:05d}.parquet"):
                digest, size = hashlib.sha256(), 0
                with output.open(name, "rb") as file:
                    while chunk := file.read(1 << 22):
                        digest.update(chunk)
                        size += len(chunk)
                files.append({"path": name, "bytes": size, "sha256": digest.hexdigest()})
        part = {"documents": documents, "characters": characters, "files": files}
        with get_datafolder(self.parts).open(f"{rank:05d}.json", "w") as file:
            json.dump(part, file)

"""The texts of an adaptation: documents to train on, and documents that are held out of them."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import write_whole
from llm_jp_modernbert.training.data.blocks import normalize
from llm_jp_modernbert.training.data.encoding import Encoder
from llm_jp_modernbert.training.data.order import DocumentOrder, Source, shard_list, text_digest
from llm_jp_modernbert.training.data.readers import Document
from llm_jp_modernbert.training.data.sources import sources_of
from llm_jp_modernbert.training.recipe.arguments import SPECIAL_TOKENS_PER_PIECE, PretrainingArguments
from llm_jp_modernbert.training.run.summary import data_names

from .options import MOST_HELD_OUT, AdaptOptions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# An interval needs two documents.
_FEWEST_HELD_OUT = 2
# One document in ten is held out.
_INTERVAL = 10
# Documents and characters of a large general corpus that are read to hold some out.
_MOST_READ, _MOST_CHARACTERS = 20_000, 200_000_000
# Characters that are tokenized to estimate the number of tokens.
_COUNTED = 1_000_000


@dataclass(frozen=True)
class Corpus:
    """Texts that the model is trained on.

    Attributes:
        paths: files, directories, patterns or datasets, as given.
        weights: relative share of each path.
        name: their names, joined by `+`.
        revision: `sha256:…` of the files.
        documents: number of documents that were read, without those that are held out.
        characters: number of characters in them.
        tokens: estimated number of tokens in them, special tokens included.
    """

    paths: tuple[str, ...]
    weights: tuple[float, ...]
    name: str
    revision: str
    documents: int
    characters: int
    tokens: float


@dataclass(frozen=True)
class HeldOut:
    """Documents to measure on, none of which is trained on.

    Attributes:
        name: names of the files or datasets that they are from, joined by `+`.
        held_out_of: `train`, `replay`, or `file` for texts of their own.
        texts: the documents.
    """

    name: str
    held_out_of: Literal["train", "replay", "file"]
    texts: tuple[str, ...]

    @property
    def revision(self) -> str:
        """`sha256:…` of the documents."""
        return f"sha256:{hashlib.sha256(b''.join(map(text_digest, self.texts))).hexdigest()[:16]}"

    def write(self, path: Path, text_column: str) -> None:
        """Writes the documents as JSON lines."""
        lines = (json.dumps({text_column: text}, ensure_ascii=False) for text in self.texts)
        write_whole(path, "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass"))


@dataclass(frozen=True)
class Texts:
    """All texts.

    Attributes:
        train: texts of the domain.
        replay: general text, if any; of a large corpus, only a part is counted.
        domain: held-out documents of the domain.
        general: held-out general documents, if any.
    """

    train: Corpus
    replay: Corpus | None
    domain: HeldOut
    general: HeldOut | None


def read_texts(options: AdaptOptions, recipe: PretrainingArguments, tokenizer: PreTrainedTokenizerBase) -> Texts:
    """Reads and counts the texts, and chooses the documents to measure on.

    Args:
        options: options of the command.
        recipe: its `text_column`, `normalization`, `strict` and `sequence_length` are used.
        tokenizer: counts tokens.

    Raises:
        UsageError: texts are missing, unreadable, tokenized already, or too few to hold some out.
    """
    reader = _Reader(recipe, tokenizer, options.seed)
    domain = reader.held_out("validation", options.validation) if options.validation else None
    general = reader.held_out("general", options.general) if options.general else None
    known = {text_digest(text) for held_out in (domain, general) if held_out for text in held_out.texts}
    train, domain = reader.corpus("train", options.train, known, domain)
    replay = None
    if options.replay:
        known |= set(map(text_digest, domain.texts))
        replay, general = reader.corpus("replay", options.replay, known, general)
    return Texts(train, replay, domain, general)


class _Reader:
    """Reads texts in the form that the recipe trains on."""

    def __init__(self, recipe: PretrainingArguments, tokenizer: PreTrainedTokenizerBase, seed: int) -> None:
        self.recipe, self.seed = recipe, seed
        self.encoder = Encoder(tokenizer)

    def held_out(self, option: str, paths: Sequence[str]) -> HeldOut:
        """At most `MOST_HELD_OUT` documents of texts of their own."""
        counted = _Counted(Sample(self.seed))
        for document in self._documents(option, self._sources(option, paths)):
            counted.add(document)
        texts, _ = counted.sample.lowest(MOST_HELD_OUT)
        if len(texts) < _FEWEST_HELD_OUT:
            raise UsageError(
                f"--{option} {_name(paths)}: one document is too little to measure on. Add documents. In a text "
                "file, blank lines separate documents."
            )
        return HeldOut(_name(paths), "file", texts)

    def corpus(
        self, option: Literal["train", "replay"], paths: Sequence[str], known: set[bytes], held_out: HeldOut | None
    ) -> tuple[Corpus, HeldOut]:
        """Counts texts to train on.

        Args:
            option: its option.
            paths: its values.
            known: `text_digest` of documents that are held out already.
            held_out: documents to measure on; by default a tenth of these texts.
        """
        counted, weights = _Counted(Sample(self.seed)), []
        sources = [self._sources(option, [path]) for path in paths]
        # Of general text, which can be large, documents of all paths in turn; the domain is counted completely.
        parts = sources if option == "train" else [list(chain.from_iterable(sources))]
        for part in parts:
            before = counted.characters
            for document in self._documents(option, part):
                if text_digest(document.text) not in known:
                    counted.add(document)
                if option == "replay" and (counted.documents >= _MOST_READ or counted.characters >= _MOST_CHARACTERS):
                    break
            weights.append(float(max(1, counted.characters - before)))
        documents, characters = counted.documents, counted.characters
        if not documents:
            raise UsageError(f"--{option} {_name(paths)}: all of its documents are held out. Add documents.")
        if held_out is None:
            texts, copies = counted.sample.lowest(min(MOST_HELD_OUT, documents // _INTERVAL))
            instead = {"train": "--validation", "replay": "--general"}[option]
            if len(texts) < _FEWEST_HELD_OUT or copies == documents:
                raise UsageError(
                    f"--{option} {_name(paths)}: {documents:,} documents, {len(counted.sample.counts):,} of them "
                    f"different, are too few to hold a tenth out; {_INTERVAL * _FEWEST_HELD_OUT} are needed. Name "
                    f"held-out texts with {instead}, or add documents. In a text file, blank lines separate documents."
                )
            held_out = HeldOut(_name(paths), option, texts)
            documents, characters = documents - copies, characters - sum(map(len, texts))
        tokens = self._tokens(counted.beginning, documents, characters)
        corpus = Corpus(
            tuple(paths),
            tuple(weights) if option == "train" else (1.0,) * len(paths),
            _name(paths),
            _revision(list(chain.from_iterable(sources))),
            documents,
            characters,
            tokens,
        )
        return corpus, held_out

    def _sources(self, option: str, paths: Sequence[str]) -> list[Source]:
        return sources_of(list(paths), self.recipe.text_column, f"--{option}")

    def _documents(self, option: str, sources: Sequence[Source]) -> Iterator[Document]:
        """The documents of one epoch, of all files in turn."""
        source = Source([shard for source in sources for shard in source.shards])
        order = DocumentOrder([source], 0, shuffle=False, interleave=len(source.shards), strict=self.recipe.strict)
        while (item := order.next()) is not None:
            if item[1].ids is not None:
                raise UsageError(f"--{option}: {item[1].path} holds token ids. Name the texts that they were made of.")
            yield item[1]

    def _tokens(self, beginning: Sequence[str], documents: int, characters: int) -> float:
        """Estimated number of tokens, from those of the first documents."""
        texts = [normalize(text, self.recipe.normalization) for text in beginning]
        tokens = sum(map(len, self.encoder.encode(texts))) / sum(map(len, beginning)) * characters
        return tokens + SPECIAL_TOKENS_PER_PIECE * (documents + tokens / self.recipe.sequence_length)


class _Counted:
    """Number of documents and characters, the first texts, and a random sample."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self.documents, self.characters = 0, 0
        self.beginning: list[str] = []

    def add(self, document: Document) -> None:
        if self.characters < _COUNTED:
            self.beginning.append(document.text[:_COUNTED])
        self.documents += 1
        self.characters += document.characters
        self.sample.add(document.text)


class Sample:
    """The texts with the lowest hashes: a random choice that does not depend on the order of the documents."""

    def __init__(self, seed: int) -> None:
        self._key = seed.to_bytes(8, "big")
        self._texts: dict[int, str] = {}
        self._heap: list[int] = []
        self.counts: dict[int, int] = {}

    def add(self, text: str) -> None:
        """Adds a document."""
        digest = hashlib.blake2b(text_digest(text), digest_size=8, key=self._key).digest()
        number = int.from_bytes(digest, "big")
        if number in self.counts:
            self.counts[number] += 1
        elif len(self._heap) < MOST_HELD_OUT or number < -self._heap[0]:
            heapq.heappush(self._heap, -number)
            self._texts[number], self.counts[number] = text, 1
            if len(self._heap) > MOST_HELD_OUT:
                removed = -heapq.heappop(self._heap)
                del self._texts[removed], self.counts[removed]

    def lowest(self, size: int) -> tuple[tuple[str, ...], int]:
        """At most `size` different texts, and the number of documents that have them."""
        chosen = sorted(self.counts)[:size]
        return tuple(self._texts[number] for number in chosen), sum(self.counts[number] for number in chosen)


def _name(paths: Sequence[str]) -> str:
    return "+".join(entry["name"] for entry in data_names(list(paths)))


def _revision(sources: Sequence[Source]) -> str:
    """`sha256:…` over names, sizes, beginnings and ends of the files."""
    described = json.dumps([shard_list(source) for source in sources]).encode()
    return f"sha256:{hashlib.sha256(described).hexdigest()[:16]}"

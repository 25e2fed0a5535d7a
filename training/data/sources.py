"""From a recipe's `train_data` to sources: local files by themselves, Hub datasets by `datasets`, streamed."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from llm_jp_modernbert.core.hub import explain, is_passing
from llm_jp_modernbert.inference.loading import split_revision

from ..recipe.arguments import Data
from .blocks import BlockSettings
from .corpus import TokenizedCorpus, from_documents
from .encoding import Encoder, vocabulary_hash
from .order import DocumentOrder, FileShard, Shard, Source
from .readers import IDS_COLUMN, MANIFEST, Document, Problem, SourceError, find_files

_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?(@.+)?")
# Keys of an entry that only a dataset of `datasets` has: with them a local folder is read by it, too.
_DATASET_KEYS = ("name", "split", "revision")


@dataclass(frozen=True)
class MadeWith:
    """What a tokenised corpus was made with.

    Attributes:
        place: folder or repository of the corpus.
        name: of the tokenizer.
        vocabulary: its hash, see `vocabulary_hash`.
        remedy: how to train with it.
        normalization: `none`, or the Unicode form that its texts were brought to; None where nothing says which.
    """

    place: str
    name: str
    vocabulary: str
    remedy: str
    normalization: str | None = None


@dataclass(frozen=True)
class DatasetShard:
    """A part of a dataset that `datasets` streams, most often one of its files."""

    name: str
    dataset: Any
    index: int
    count: int
    text_column: str
    made_with: MadeWith | None = None

    def read(self, start: int, problems: Callable[[Problem], Any] | None) -> Iterator[Document]:
        """See `order.Shard`."""
        part = self.dataset.shard(num_shards=self.count, index=self.index)
        rows = iter(part.skip(start) if start else part)
        row = start
        while True:
            try:
                example = next(rows)
            except StopIteration:
                return
            except Exception as error:
                if not _is_told(error):
                    raise
                raise SourceError(f"{self.name}, after row {row}: cannot be read on: {explain(error)}") from error
            row += 1
            content = example.get(self.text_column, example.get(IDS_COLUMN))
            if isinstance(content, str) and content.strip():
                yield Document(content, self.name, row, row, len(content))
            elif isinstance(content, list) and content:
                ids = np.asarray(content, dtype=np.int32)
                yield Document("", self.name, row, row, example.get("characters", len(ids)), ids)
            elif self.text_column not in example and IDS_COLUMN not in example:
                columns = ", ".join(map(repr, example))
                raise SourceError(f"{self.name}: no column {self.text_column!r}; there is {columns}. Set text_column.")
            elif problems is not None:
                problems(Problem(self.name, row, "blank"))


def sources_of(data: Data, text_column: str, key: str = "train_data") -> list[Source]:
    """The sources that a recipe names.

    Args:
        data: a path, pattern or dataset, or a list of them or of mappings with `path` and more. Entries without
            weights are one source, all of which an epoch reads; with weights each is one by itself.
        text_column: the column of the text, where an entry does not name another.
        key: the recipe's key, for messages.

    Raises:
        SourceError: no file matches, a dataset cannot be loaded, or only some entries have a weight.
    """
    entries: list[dict[str, Any]] = [{"path": entry} if isinstance(entry, str) else entry for entry in _listed(data)]
    shards = [_shards(entry, entry.get("text_column", text_column), key) for entry in entries]
    lengths = [(entry.get("min_characters", 0), entry.get("max_characters")) for entry in entries]
    weighted = ["weight" in entry for entry in entries]
    if any(weighted):
        if not all(weighted):
            missing = entries[weighted.index(False)]["path"]
            raise SourceError(f"{key}: {missing} has no weight, but others have. Give each a weight, or none.")
        return [
            Source(part, float(entry["weight"]), *limits)
            for part, entry, limits in zip(shards, entries, lengths, strict=True)
        ]
    if len(set(lengths)) > 1:
        raise SourceError(f"{key}: entries with limits of their own on characters need a weight each.")
    return [Source([shard for part in shards for shard in part], 1.0, *lengths[0])]


def read_held_out(
    data: Data,
    text_column: str,
    settings: BlockSettings,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
) -> TokenizedCorpus:
    """The beginning of the held-out text, in the order of its files, a document of each in turn.

    Args:
        data: as for `sources_of`.
        text_column: the column of the text.
        settings: normalisation and strictness.
        tokenizer: a fast tokenizer.
        max_tokens: tokens that are enough; the last document is cut there.

    Raises:
        SourceError: see `sources_of`, `check_tokenized_with` and `read_documents`.
    """
    source = sources_of(data, text_column, "validation_data")
    check_tokenized_with(source, tokenizer, settings.normalization)
    encoder = Encoder(tokenizer)
    problems = None if settings.strict else lambda problem: None
    order = DocumentOrder(source, 0, shuffle=False, interleave=len(source[0].shards), problems=problems)
    found, tokens = [], 0
    while tokens < max_tokens and (item := order.next()) is not None:
        document = item[1]
        ids = document.ids if document.ids is not None else encoder.encode([settings.normalized(document.text)])[0]
        found.append(ids[: max_tokens - tokens])
        tokens += len(found[-1])
    return from_documents(found)


def check_tokenized_with(
    sources: Sequence[Source], tokenizer: PreTrainedTokenizerBase, normalization: str | None = None
) -> None:
    """Checks that tokenised corpora hold the ids that this run would give their texts.

    Args:
        sources: what is read.
        tokenizer: of the run.
        normalization: of the run's texts, see `BlockSettings`; None where it does not matter.

    Raises:
        SourceError: one was made with another tokenizer, or of texts in another Unicode form.
    """
    shards = [shard for source in sources for shard in source.shards]
    folders = {Path(shard.name).parent.parent for shard in shards if isinstance(shard, FileShard)}
    found = [_made_with(str(folder)) for folder in sorted(folders)]
    found += [shard.made_with for shard in shards if isinstance(shard, DatasetShard)]
    corpora = [made_with for made_with in dict.fromkeys(found) if made_with is not None]
    vocabulary = vocabulary_hash(tokenizer) if corpora else ""
    for corpus in corpora:
        if corpus.vocabulary != vocabulary:
            raise SourceError(
                f"{corpus.place} was tokenised with {corpus.name}, not with the tokenizer of this run. "
                f"{corpus.remedy}, or tokenise the texts again."
            )
        # Ids stay as they are: only texts that are read as such are brought to the recipe's form.
        if None not in (normalization, corpus.normalization) and corpus.normalization != normalization:
            raise SourceError(
                f"{corpus.place} was tokenised with normalization={corpus.normalization}, and this run has "
                f"normalization={normalization}. Give normalization={corpus.normalization}, or tokenise the texts "
                f"again with --normalization {normalization}."
            )


def _made_with(place: str, revision: str | None = None) -> MadeWith | None:
    """What the manifest of a folder or a repository says; None where there is none, and nothing can be checked."""
    folder = Path(place).expanduser()
    if folder.is_dir():
        file, remedy = folder / MANIFEST, f"Give tokenizer={folder / 'tokenizer'}"
        if not file.is_file():
            return None
    else:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import RemoteEntryNotFoundError

        at = f" --revision {revision}" if revision else ""
        fetch = f"hf download {place} --repo-type dataset{at} --include 'tokenizer/*' --local-dir DIR"
        remedy = f"Get that ({fetch}) and give tokenizer=DIR/tokenizer"
        try:
            file = Path(hf_hub_download(place, MANIFEST, repo_type="dataset", revision=revision))
        except RemoteEntryNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise SourceError(f"{place}: its {MANIFEST} cannot be read: {explain(error)}") from error
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        tokenizer, normalization = manifest["tokenizer"], manifest.get("normalization")
        return MadeWith(place, tokenizer["name"], tokenizer["sha256"], remedy, normalization)
    except (ValueError, KeyError, TypeError, AttributeError):
        # Other data sets have files of this name, too.
        return None


def _listed(data: Data) -> list[Any]:
    return [data] if isinstance(data, (str, dict)) else list(data)


def _shards(entry: dict[str, Any], text_column: str, key: str) -> list[Shard]:
    path = str(entry["path"])
    local = Path(path).expanduser().exists() or bool(glob.glob(path, recursive=True))
    if any(name in entry for name in _DATASET_KEYS) or (not local and _REPOSITORY.fullmatch(path)):
        return _dataset_shards(path, entry, text_column, key)
    try:
        return [FileShard(file, text_column) for file in find_files([path])]
    except SourceError as error:
        raise SourceError(f"{key}: {error}") from error


def _dataset_shards(path: str, entry: dict[str, Any], text_column: str, key: str) -> list[Shard]:
    from datasets import load_dataset

    split = entry.get("split", "train")
    place, revision = split_revision(path, entry.get("revision"))
    try:
        dataset = load_dataset(place, name=entry.get("name"), split=split, revision=revision, streaming=True)
    except Exception as error:
        if not _is_told(error):
            raise
        raise SourceError(
            f"{key}: {path} is no file or folder here, and cannot be loaded as a dataset of the Hub: {explain(error)}"
        ) from error
    columns = dataset.column_names
    if columns is not None and text_column not in columns and IDS_COLUMN not in columns:
        there = ", ".join(map(repr, columns))
        raise SourceError(f"{key}: {path} has no column {text_column!r}; there is {there}. Set text_column.")
    made_with = _made_with(place, revision) if columns is None or text_column not in columns else None
    count = dataset.num_shards
    return [
        DatasetShard(f"{path}/{split}[{index}/{count}]", dataset, index, count, text_column, made_with)
        for index in range(count)
    ]


def _is_told(error: Exception) -> bool:
    """Whether an error is the data's or the Hub's, and no mistake in a program."""
    from datasets.exceptions import DatasetsError

    return isinstance(error, (DatasetsError, OSError, ValueError)) or is_passing(error)

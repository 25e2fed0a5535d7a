"""Turn the `train_data` of a recipe into sources: local files, or Hub datasets streamed by `datasets`."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.hub_errors import explain, is_transient
from llm_jp_modernbert.core.references import ModelReference, is_local_path
from llm_jp_modernbert.core.text_files import is_remote

from ..recipe.arguments import Data
from .blocks import BlockSettings, known_ids, normalize
from .corpus import TokenizedCorpus, from_documents
from .encoding import Encoder, vocabulary_hash
from .manifest import MANIFEST, SourceEntry, scan_manifest
from .order import RECORDED, DocumentOrder, FileShard, Sample, Shard, Source, text_digest
from .readers import (
    IDS_COLUMN,
    KNOWN_SUFFIXES,
    BadRow,
    Document,
    Rows,
    SourceError,
    find_files,
    no_column,
    read_documents,
    text_document,
    token_ids,
)

# An entry with one of these keys is loaded by `datasets`, even from a local directory.
_DATASET_KEYS = ("name", "split", "revision")


@dataclass(frozen=True)
class CorpusOrigin:
    """How a tokenized corpus was made.

    Attributes:
        place: directory or repository of the corpus.
        tokenizer: name of the tokenizer.
        vocabulary: its `vocabulary_hash`.
        remedy: how to obtain and use that tokenizer, as the beginning of a sentence.
        normalization: `none` or a Unicode form; None if the manifest does not say.
    """

    place: str
    tokenizer: str
    vocabulary: str
    remedy: str
    normalization: str | None = None


@dataclass(frozen=True)
class CorpusShard(FileShard):
    """A shard of a tokenized corpus, which is identified by its entry in the manifest instead of its content."""

    def sample(self, length: int) -> Sample:
        """See `order.Shard`."""
        data, name = os.path.split(self.name)
        recorded = _recorded(os.path.join(os.path.dirname(data), MANIFEST)).get(name)
        return super().sample(length) if recorded is None else recorded


@lru_cache(maxsize=8)
def _recorded(file: str) -> dict[str, Sample]:
    """A sample of each shard of a tokenized corpus; empty if the manifest is that of something else."""
    samples: dict[str, Sample] = {}
    try:
        origin = scan_manifest(Path(file))
        made_from = (origin["tokenizer"]["sha256"], origin.get("normalization"))

        def add(source: SourceEntry) -> None:
            for shard in source["shards"]:
                entry = json.dumps([*made_from, source.get("sha256"), *sorted(shard.items())])
                digest = hashlib.sha256(entry.encode()).hexdigest()[:16]
                samples[shard["file"]] = {"size": shard["bytes"], "sha256": f"{RECORDED}{digest}"}

        scan_manifest(Path(file), add)
    except (UsageError, KeyError, TypeError, AttributeError):
        return {}
    return samples


@dataclass(frozen=True)
class DatasetShard:
    """A shard of a streamed dataset, usually one of its files."""

    name: str
    dataset: Any
    index: int
    count: int
    text_column: str
    origin: CorpusOrigin | None = None

    def read(self, start: int) -> Rows:
        """See `order.Shard`."""
        part = self.dataset.shard(num_shards=self.count, index=self.index)
        examples = iter(part.skip(start) if start else part)
        row = start
        while True:
            try:
                example = next(examples)
            except StopIteration:
                return
            except Exception as error:
                if not _is_data_error(error):
                    raise
                raise SourceError(f"{self.name}, after row {row}: reading failed: {explain(error)}") from error
            row += 1
            yield self._row(example, row)

    def sample(self, length: int) -> Sample:
        """See `order.Shard`. The content of a dataset is not compared."""
        return {"size": 0, "sha256": ""}

    def _row(self, example: dict[str, Any], row: int) -> Document | BadRow:
        if self.text_column not in example and IDS_COLUMN not in example:
            raise SourceError(f"{self.name}: {no_column(self.text_column, list(example))}")
        content = example.get(self.text_column, example.get(IDS_COLUMN))
        if content is None or isinstance(content, str):
            return text_document(content, self.name, row)
        if not content:
            return BadRow(self.name, row, "blank")
        import pyarrow

        try:
            ids = token_ids(pyarrow.array(content))
        except (pyarrow.ArrowException, TypeError) as error:
            raise SourceError(f"{self.name}, row {row}: not a list of token ids ({error}).") from error
        characters = example.get("characters")
        return Document("", self.name, row, row, characters if isinstance(characters, int) else len(ids), ids)


def sources_of(
    data: Data, text_column: str, key: str = "train_data", excluded: Collection[bytes] = frozenset()
) -> list[Source]:
    """Returns the sources that a recipe names.

    Args:
        data: a path, pattern or dataset, or a list of them or of mappings with `path` and more keys. Entries without
            weights form one source, read completely in every epoch; with weights, each entry is a source.
        text_column: the column of the text, unless an entry names another.
        key: the key of the recipe, for messages.
        excluded: see `Source`.

    Raises:
        SourceError: no file matches, a dataset cannot be loaded, or only some entries have a weight.
    """
    listed: list[Any] = [data] if isinstance(data, (str, dict)) else list(data)
    entries: list[dict[str, Any]] = [{"path": entry} if isinstance(entry, str) else entry for entry in listed]
    shards = [_shards(entry, entry.get("text_column", text_column), key) for entry in entries]
    limits = [(entry.get("min_characters", 0), entry.get("max_characters")) for entry in entries]
    unweighted = [entry["path"] for entry in entries if "weight" not in entry]
    if not unweighted:
        return [
            Source(part, float(entry["weight"]), *limit, excluded)
            for part, entry, limit in zip(shards, entries, limits, strict=True)
        ]
    if len(unweighted) < len(entries):
        raise SourceError(f"{key}: {unweighted[0]} has no weight, but others have. Give each a weight, or none.")
    if len(set(limits)) > 1:
        raise SourceError(f"{key}: entries with different limits on characters need a weight each.")
    return [Source([shard for part in shards for shard in part], 1.0, *limits[0], excluded)]


def excluded_texts(files: str | Sequence[str], text_column: str) -> frozenset[bytes]:
    """The texts of `exclude_data`, for `Source.excluded`.

    Raises:
        SourceError: a file does not exist or cannot be read.
    """
    try:
        paths = find_files([files] if isinstance(files, str) else files)
        return frozenset(
            text_digest(document.text) for path in paths for document in read_documents(path, text_column)
        )
    except SourceError as error:
        raise SourceError(f"exclude_data: {error}") from error


def read_held_out(
    data: Data,
    text_column: str,
    settings: BlockSettings,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
) -> TokenizedCorpus:
    """Reads the held-out set: one document of each file in turn, up to a number of tokens.

    Args:
        data: see `sources_of`.
        text_column: the column of the text.
        settings: only `normalization` and `strict` are used.
        tokenizer: a fast tokenizer.
        max_tokens: maximum number of tokens; the last document is truncated.

    Raises:
        SourceError: see `sources_of`, `check_tokenized_with` and `read_documents`.
    """
    source = sources_of(data, text_column, "validation_data")
    check_tokenized_with(source, tokenizer, settings.normalization)
    encoder = Encoder(tokenizer)
    order = DocumentOrder(source, 0, shuffle=False, interleave=len(source[0].shards), strict=settings.strict)
    documents, tokens = [], 0
    while tokens < max_tokens and (item := order.next()) is not None:
        document = item[1]
        if document.ids is None:
            ids = encoder.encode([normalize(document.text, settings.normalization)])[0]
        else:
            ids = known_ids(document, len(tokenizer))
        documents.append(ids[: max_tokens - tokens])
        tokens += len(documents[-1])
    return from_documents(documents)


def check_tokenized_with(
    sources: Sequence[Source], tokenizer: PreTrainedTokenizerBase, normalization: str | None = None
) -> None:
    """Checks that tokenized corpora hold the ids that a tokenizer gives their texts.

    Args:
        sources: the sources to check; those that hold text are skipped.
        tokenizer: the tokenizer.
        normalization: the required Unicode form of the texts, see `BlockSettings`; None for any.

    Raises:
        SourceError: a corpus was made with another tokenizer or another Unicode form.
    """
    shards = [shard for source in sources for shard in source.shards]
    files = [shard.name for shard in shards if isinstance(shard, FileShard) and shard.name.endswith(".arrow")]
    directories = {os.path.dirname(directory) for directory in {os.path.dirname(file) for file in files}}
    origins = [_origin(directory) for directory in sorted(directories)]
    origins += [shard.origin for shard in shards if isinstance(shard, DatasetShard)]
    corpora = [origin for origin in dict.fromkeys(origins) if origin is not None]
    vocabulary = vocabulary_hash(tokenizer) if corpora else ""
    for corpus in corpora:
        if corpus.vocabulary != vocabulary:
            raise SourceError(
                f"{corpus.place} was tokenized with {corpus.tokenizer}, not with the tokenizer of this run. "
                f"{corpus.remedy}, or tokenize the texts again."
            )
        if None not in (normalization, corpus.normalization) and corpus.normalization != normalization:
            raise SourceError(
                f"{corpus.place} was tokenized with normalization={corpus.normalization}, but this run has "
                f"normalization={normalization}. Set normalization={corpus.normalization}, or tokenize the texts "
                f"again with --normalization {normalization}."
            )


def _origin(place: str, revision: str | None = None) -> CorpusOrigin | None:
    """Reads the manifest of a directory or repository; None if there is none."""
    directory = Path(os.path.expanduser(place))
    if directory.is_dir():
        file, remedy = directory / MANIFEST, f"Set tokenizer={directory / 'tokenizer'}"
        if not file.is_file():
            return None
    else:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import RemoteEntryNotFoundError

        option = f" --revision {revision}" if revision else ""
        download = f"hf download {place} --repo-type dataset{option} --include 'tokenizer/*' --local-dir DIR"
        remedy = f"Download that ({download}) and set tokenizer=DIR/tokenizer"
        try:
            file = Path(hf_hub_download(place, MANIFEST, repo_type="dataset", revision=revision))
        except RemoteEntryNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise SourceError(f"{place}: {MANIFEST} cannot be read: {explain(error)}") from error
    origin = scan_manifest(file)
    if "tokenizer" not in origin:
        # A manifest.json of another kind of dataset.
        return None
    tokenizer = origin["tokenizer"]
    return CorpusOrigin(place, tokenizer["name"], tokenizer["sha256"], remedy, origin.get("normalization"))


def _shards(entry: dict[str, Any], text_column: str, key: str) -> list[Shard]:
    path = str(entry["path"])
    if not path.strip():
        raise SourceError(f"{key}: the name of a file or dataset is empty.")
    if is_remote(path):
        raise SourceError(
            f"{key}: {path}: a remote path, which every data process would read as a whole. Copy it to a local or "
            "shared directory first, and name that, or the name of a dataset on the Hub."
        )
    # A missing file is not searched for on the Hub.
    is_file = glob.escape(path) != path or is_local_path(path) or path.endswith(KNOWN_SUFFIXES)
    if any(name in entry for name in _DATASET_KEYS) or not is_file:
        return _dataset_shards(path, entry, text_column, key)
    try:
        kind = CorpusShard if (Path(os.path.expanduser(path)) / MANIFEST).is_file() else FileShard
        return [kind(file, text_column) for file in find_files([path])]
    except SourceError as error:
        raise SourceError(f"{key}: {error}") from error


def _dataset_shards(path: str, entry: dict[str, Any], text_column: str, key: str) -> list[Shard]:
    from datasets import load_dataset

    split = entry.get("split", "train")
    reference = ModelReference.parse(path, entry.get("revision"))
    place, revision = reference.name, reference.revision
    try:
        dataset = load_dataset(place, name=entry.get("name"), split=split, revision=revision, streaming=True)
    except Exception as error:
        if not _is_data_error(error):
            raise
        raise SourceError(
            f"{key}: {path} is not a local file or directory, and cannot be loaded as a dataset of the Hub: "
            f"{explain(error)}"
        ) from error
    columns = dataset.column_names
    if columns is not None and text_column not in columns and IDS_COLUMN not in columns:
        raise SourceError(f"{key}: {path}: {no_column(text_column, columns)}")
    origin = _origin(place, revision) if columns is None or text_column not in columns else None
    count = dataset.num_shards
    return [
        DatasetShard(f"{path}/{split}[{index}/{count}]", dataset, index, count, text_column, origin)
        for index in range(count)
    ]


def _is_data_error(error: Exception) -> bool:
    """Whether an error is due to the data or the Hub rather than to a bug."""
    from datasets.exceptions import DatasetsError

    return isinstance(error, (DatasetsError, OSError, ValueError)) or is_transient(error)

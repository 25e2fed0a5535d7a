"""The stages of a preparation, each a datatrove pipeline that runs after the one before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.exact_dedup import (
    ExactDedupConfig,
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
)
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
)
from datatrove.pipeline.writers import ParquetWriter
from datatrove.utils.hashing import HashConfig

from .layout import COLUMNS, WORK
from .removed import Removed
from .report import WriteReport
from .steps import (
    CharacterSignature,
    Decontaminate,
    InputFile,
    Normalize,
    RangeFilter,
    ReadFiles,
    ReadOwn,
    Split,
    WritePart,
    text_of,
)

if TYPE_CHECKING:
    from datatrove.data import Document

    from .recipe import CorpusRecipe

SENTENCES = "sentences.json"
"""File of the sentences of evaluation texts, in `WORK`."""

_SCHEMA = pa.schema([(column, pa.string()) for column in COLUMNS])
# datatrove's xxhash functions pass strings, which xxhash 4 rejects.
_SHA1 = HashConfig(hash_fc="sha1")
_EXACT = ExactDedupConfig(content_getter=text_of, hash_config=_SHA1)


@dataclass(frozen=True)
class Stage:
    """A pipeline and its number of tasks."""

    name: str
    pipeline: list[PipelineStep | Callable[..., Any]]
    tasks: int


def stages(recipe: CorpusRecipe, files: list[list[InputFile]]) -> list[Stage]:
    """The stages of a preparation.

    Args:
        recipe: the recipe.
        files: input files of each task.
    """
    work = f"{recipe.output_dir.rstrip('/')}/{WORK}"
    cleaned, signatures, duplicates = f"{work}/cleaned", f"{work}/exact/signatures", f"{work}/exact/duplicates"
    tasks = recipe.tasks

    def removed(step: str) -> Removed:
        return Removed(f"{work}/removed", step)

    clean: list[Any] = [ReadFiles(files, removed("unreadable_rows"))]
    steps = ["unreadable_rows"]
    if recipe.normalization != "none":
        clean.append(Normalize(recipe.normalization, removed("normalization")))
        steps.append("normalization")
    for name, accepted in recipe.filters.items():
        clean.append(RangeFilter(name, accepted.min, accepted.max, removed(name)))
        steps.append(name)
    clean.append(_writer(cleaned, "${rank}.parquet", recipe.shard_bytes))
    result = [Stage("clean", clean, tasks)]
    write: list[Any] = [ReadOwn(cleaned)]
    if recipe.exact_duplicates:
        # Signatures are cheap: they are computed while the texts are in memory.
        clean.append(ExactDedupSignature(signatures, _EXACT, finder_workers=tasks))
        result.append(Stage("exact-duplicates", [ExactFindDedups(signatures, duplicates, _EXACT)], tasks))
        write.append(ExactDedupFilter(duplicates, _EXACT, removed("exact_duplicates")))
        steps.append("exact_duplicates")
    if recipe.near_duplicates is not None:
        near = recipe.near_duplicates
        config = MinhashConfig(near.characters, near.bands, near.hashes, hash_config=_SHA1)
        bands, pairs, clusters = f"{work}/near/signatures", f"{work}/near/pairs", f"{work}/near/clusters"
        # Without the counters, which the last stage writes.
        earlier = [ExactDedupFilter(duplicates, _EXACT)] if recipe.exact_duplicates else []
        result.append(Stage("near-signatures", [ReadOwn(cleaned), *earlier, CharacterSignature(bands, config)], tasks))
        result.append(Stage("near-pairs", [MinhashDedupBuckets(bands, pairs, config=config)], near.bands))
        result.append(Stage("near-clusters", [MinhashDedupCluster(pairs, clusters, config=config)], 1))
        write.append(MinhashDedupFilter(clusters, removed("near_duplicates")))
        steps.append("near_duplicates")
    if recipe.decontamination is not None:
        sentences = f"{work}/{SENTENCES}"
        write.append(Decontaminate(sentences, recipe.decontamination, removed("decontamination")))
        steps.append("decontamination")
    write += [
        Split(recipe.validation_share),
        _writer(recipe.output_dir, "${split}/${rank}.parquet", recipe.shard_bytes),
        WritePart(recipe.output_dir, f"{work}/parts"),
    ]
    result.append(Stage("write", write, tasks))
    result.append(Stage("report", [WriteReport(recipe, steps, files, work)], 1))
    return result


def _writer(folder: str, name: str, shard_bytes: int) -> ParquetWriter:
    return ParquetWriter(
        folder, name, compression="zstd", adapter=_row, schema=_SCHEMA, batch_size=100, max_file_size=shard_bytes
    )


def _row(writer: ParquetWriter, document: Document) -> dict[str, str]:
    return {"id": document.id, "source": document.metadata["source"], "text": document.text}

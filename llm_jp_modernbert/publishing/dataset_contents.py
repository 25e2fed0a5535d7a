"""The datasets that can be released: prompts of the fill-mask test, prepared corpora and tokenized corpora."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import read_json, sha256, write_json
from llm_jp_modernbert.core.text_files import is_remote

from .options import DEFAULT_LICENSE
from .staging import check_links

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llm_jp_modernbert.evaluation.tasks.fill_mask import Prompt
    from llm_jp_modernbert.training.corpora.layout import PreparedManifest, Report
    from llm_jp_modernbert.training.data.manifest import Manifest

FILL_MASK = "fill-mask"
"""Value of `source` for the prompts of this package."""

DATA = "data"
PROMPTS = "prompts.jsonl"

UNKNOWN_LICENSE = "unknown"

# Documents of each source in which Japanese is looked for.
_SAMPLE = 100


@dataclass(frozen=True)
class Split:
    """A split of a dataset.

    Attributes:
        files: glob pattern of its files.
        expected: the counts that `plain_stream.py` must return.
    """

    name: str
    files: str
    expected: dict[str, Any]


@dataclass(frozen=True)
class Contents:
    """Contents and default metadata of a dataset.

    Attributes:
        source: name given by the user.
        title: subject of the commit.
        stage: writes the data into a directory.
        tokenized: manifest of a tokenized corpus, without local paths.
        prepared: manifest of a prepared corpus, without local paths.
        report: counts of a preparation, without documents.
    """

    source: str
    title: str
    splits: tuple[Split, ...]
    license: str
    languages: tuple[str, ...]
    stage: Callable[[Path], None]
    prompts: Sequence[Prompt] = ()
    tokenized: Manifest | None = None
    prepared: PreparedManifest | None = None
    report: Report | None = None


def contents_of(source: str) -> Contents:
    """Reads and checks a dataset, apart from its rows.

    Raises:
        UsageError: it is none of the three kinds, or damaged.
    """
    from llm_jp_modernbert.training.corpora.layout import REPORT

    path = Path(os.path.expanduser(source))
    if not path.is_dir():
        return _prompts(source, path)
    # Only prepare-corpus writes a report.
    return _prepared(path) if (path / REPORT).is_file() else _tokenized(path)


def _languages(texts: Iterable[str]) -> tuple[str, ...]:
    """`ja` if a text has kana. Other languages are left to the user."""
    return ("ja",) if any(re.search("[ぁ-ヿ]", text) for text in texts) else ()


def _prompts(source: str, path: Path) -> Contents:
    from llm_jp_modernbert.evaluation.tasks.fill_mask import PROMPTS as OURS
    from llm_jp_modernbert.evaluation.tasks.fill_mask import read_prompts

    ours = source == FILL_MASK
    if not ours and not path.is_file():
        raise UsageError(
            f"{source}: no such file or directory. Name an output directory of prepare-corpus or tokenize-corpus, "
            f"{FILL_MASK} for the prompts of this package, or a JSON Lines file of prompts."
        )
    prompts = read_prompts(OURS if ours else path)
    columns = ["id", "category", "text", "answers"]
    expected = {
        "columns": columns,
        "rows": len(prompts),
        "items": {"answers": sum(len(prompt.answers) for prompt in prompts)},
    }

    def stage(folder: Path) -> None:
        rows = [{key: getattr(prompt, key) for key in columns} for prompt in prompts]
        (folder / DATA).mkdir()
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / DATA / PROMPTS).write_text(lines, encoding="utf-8")

    return Contents(
        source,
        "Fill-mask prompts",
        (Split("test", f"{DATA}/*.jsonl", expected),),
        DEFAULT_LICENSE if ours else UNKNOWN_LICENSE,
        ("ja", "en") if ours else _languages(prompt.text for prompt in prompts),
        stage,
        prompts=prompts,
    )


def _prepared(folder: Path) -> Contents:
    """A corpus of prepare-corpus. Documents that it removed are not published."""
    import pyarrow.parquet as parquet

    from llm_jp_modernbert.training.corpora.layout import COLUMNS, MANIFEST, REPORT, PreparedManifest, Report

    manifest: PreparedManifest = read_json(folder / MANIFEST, PreparedManifest)
    report: Report = read_json(folder / REPORT, Report)
    if not manifest["files"]:
        raise UsageError(f"{folder}: the corpus has no documents. Relax the filters of its recipe.")
    _compare_files(folder, {file["path"] for file in manifest["files"]}, "*/*.parquet", "Prepare the corpus again.")
    for file in manifest["files"]:
        if sha256(folder / file["path"]) != file["sha256"]:
            raise UsageError(f"{folder / file['path']}: differs from {MANIFEST}. Prepare the corpus again.")
    first = parquet.ParquetFile(folder / manifest["files"][0]["path"])
    sample = next(first.iter_batches(_SAMPLE, columns=["text"]))["text"].to_pylist()
    public = _without_local_paths(manifest)

    def stage(target: Path) -> None:
        for file in manifest["files"]:
            (target / file["path"]).parent.mkdir(exist_ok=True)
            _link(folder / file["path"], target / file["path"])
        write_json(target / MANIFEST, public)

    return Contents(
        str(folder),
        "Text corpus",
        tuple(
            Split(name, f"{name}/*.parquet", {"columns": list(COLUMNS), "rows": counts["documents"]})
            for name, counts in manifest["splits"].items()
        ),
        UNKNOWN_LICENSE,
        _languages(sample),
        stage,
        prepared=public,
        report={**report, "steps": [{**step, "samples": []} for step in report["steps"]]},
    )


def _without_local_paths(manifest: PreparedManifest) -> PreparedManifest:
    """The manifest without absolute paths, URLs of private storage and settings of a machine."""

    def public(path: str) -> str:
        is_public = path.startswith("hf://") or not (is_remote(path) or os.path.isabs(path) or path.startswith("~"))
        return path if is_public else Path(path).name

    recipe = {key: value for key, value in manifest["recipe"].items() if key not in ("output_dir", "tasks", "slurm")}
    sources = [recipe["data"]] if isinstance(recipe["data"], str) else recipe["data"]
    recipe["data"] = [
        public(source) if isinstance(source, str) else {**source, "path": public(source["path"])} for source in sources
    ]
    if recipe["decontamination"] is not None:
        texts = [public(path) for path in recipe["decontamination"]["texts"]]
        recipe["decontamination"] = {**recipe["decontamination"], "texts": texts}
    inputs = [{**file, "path": public(file["path"])} for file in manifest["inputs"]]
    return {**manifest, "recipe": recipe, "inputs": inputs}


def _tokenized(folder: Path) -> Contents:
    from llm_jp_modernbert.inference.loading import load_tokenizer
    from llm_jp_modernbert.training.corpora.layout import WORK
    from llm_jp_modernbert.training.data.encoding import vocabulary_hash
    from llm_jp_modernbert.training.data.manifest import MANIFEST, MAX_BYTES, TOKENIZER, Manifest

    if not (folder / MANIFEST).is_file():
        if (folder / DATA).is_dir() and (folder / TOKENIZER).is_dir():
            raise UsageError(
                f"{folder}: an unfinished tokenized corpus. Run the same tokenize-corpus command again to resume."
            )
        if (folder / WORK).is_dir():
            raise UsageError(
                f"{folder}: an unfinished prepared corpus. Run the same prepare-corpus command again to resume."
            )
        raise UsageError(
            f"{folder} holds no {MANIFEST}, so it is not a corpus. Name an output directory of prepare-corpus or "
            "tokenize-corpus."
        )
    try:
        manifest: Manifest = read_json(folder / MANIFEST, Manifest, max_bytes=MAX_BYTES)
    except UsageError as error:
        raise UsageError(f"{error} The file is not a manifest of tokenize-corpus.") from error
    listed = {f"{DATA}/{shard['file']}" for source in manifest["sources"] for shard in source["shards"]}
    for source in manifest["sources"]:
        path, name = source["path"], Path(source["path"]).name
        source["problems"] = [problem.replace(path, name) for problem in source["problems"]]
        source["path"] = name
        source.pop("modified", None)
    totals = manifest["totals"]
    expected = {
        "columns": ["input_ids", "characters", "row"],
        "rows": totals["documents"],
        "sums": {"characters": totals["characters"]},
        "items": {"input_ids": totals["tokens"]},
    }
    _compare_files(folder, listed, f"{DATA}/*.arrow", "Tokenize the corpus again.")
    check_links(folder, (f"{TOKENIZER}/*",))
    tokenizer = load_tokenizer(str(folder / TOKENIZER))
    if vocabulary_hash(tokenizer) != manifest["tokenizer"]["sha256"]:
        raise UsageError(f"{folder / TOKENIZER}: differs from the tokenizer in {MANIFEST}. Tokenize the corpus again.")

    def stage(target: Path) -> None:
        (target / DATA).mkdir()
        for shard in sorted(listed):
            _link(folder / shard, target / shard)
        shutil.copytree(folder / TOKENIZER, target / TOKENIZER)
        write_json(target / MANIFEST, manifest)

    return Contents(
        str(folder),
        "Tokenized corpus",
        (Split("train", f"{DATA}/*.arrow", expected),),
        UNKNOWN_LICENSE,
        _languages(_sample(folder, manifest, tokenizer)),
        stage,
        tokenized=manifest,
    )


def _sample(folder: Path, manifest: Manifest, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """The first documents of each source of a tokenized corpus, as tokens."""
    from llm_jp_modernbert.training.data.readers import Document, read_rows

    for source in manifest["sources"]:
        for shard in source["shards"][:1]:
            for row in islice(read_rows(str(folder / DATA / shard["file"])), _SAMPLE):
                if isinstance(row, Document) and row.ids is not None:
                    ids = [token for token in row.ids.tolist() if 0 <= token < len(tokenizer)]
                    yield "".join(tokenizer.convert_ids_to_tokens(ids))


def _compare_files(folder: Path, listed: set[str], pattern: str, way_out: str) -> None:
    existing = {path.relative_to(folder).as_posix() for path in folder.glob(pattern)}
    for name in sorted(listed ^ existing):
        fault = "is missing, but listed" if name in listed else "exists, but is not listed"
        raise UsageError(f"{folder / name}: {fault} in manifest.json. {way_out}")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system
        target.symlink_to(source.resolve())

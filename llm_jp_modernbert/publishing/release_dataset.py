"""Datasets go to the Hub as they were made: tokenised corpora, and prompts of the fill-mask test.

A corpus stays Arrow, the streaming format that `tokenize-corpus` writes. `datasets` reads its rows about twice as fast
as those of Parquet, since nothing has to be decoded; the Hub's viewer reads both. Shards are linked and not
written again, so that a release takes no room and no change of a library changes its bytes; and a repository that was
downloaded is a tokenised corpus. The price is its size: ids in Parquet take less than half of it. Prompts are JSON
lines, which people read as well.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.clean_process import stream_alone
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.hub import (
    MAIN,
    PATIENT,
    Committed,
    Patience,
    check_name,
    commit_folder,
    create_repository,
    in_one_line,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from llm_jp_modernbert.evaluation.tasks.fill_mask import Prompt

FILL_MASK = "fill-mask"
"""Names the prompts that come with this package."""

CARD = "README.md"
DATA = "data"
PROMPTS = "prompts.jsonl"

UNKNOWN_LICENSE = "unknown"


@dataclass(frozen=True)
class _Contents:
    """What is released.

    Attributes:
        source: as the user named it.
        split: of `datasets`.
        suffix: of the files of the split.
        streamed: what `stream_alone` must find.
        license: where the user names none.
        languages: where the user names none.
        corpus: its manifest, as others may see it; None for prompts.
        prompts: none for a corpus.
    """

    source: str
    split: str
    suffix: str
    streamed: dict[str, Any]
    license: str
    languages: tuple[str, ...]
    corpus: dict[str, Any] | None = None
    prompts: Sequence[Prompt] = ()


@dataclass(frozen=True)
class DatasetOptions:
    """What is released, and how.

    Attributes:
        source: folder that `tokenize-corpus` wrote, `fill-mask` for the prompts of this package, or a JSON-lines file
            of prompts.
        repository: `ORG/NAME`.
        revision: branch of it.
        private: whether a repository that is not there yet is made private; one that is public is then refused.
        license: a Hub licence id; by default that of this package's prompts, else `unknown`.
        languages: ISO 639 codes; by default Japanese, with English for this package's prompts.
        dry_run: a folder to leave the staged files in, in the place of sending them.
    """

    source: str
    repository: str
    revision: str = MAIN
    private: bool = False
    license: str | None = None
    languages: tuple[str, ...] = ()
    dry_run: Path | None = None


def release_dataset(
    options: DatasetOptions, patience: Patience = PATIENT, api: HfApi | None = None
) -> Committed | None:
    """Stages a dataset with its card, streams it with `datasets` alone, and sends it in one commit.

    Args:
        options: see there.
        patience: of the tries.
        api: the client; by default as the environment says.

    Returns:
        The commit, and whether it was made now: an unchanged dataset makes none. None for a dry run.

    Raises:
        UsageError: the source is no such dataset or not whole, the Hub cannot be reached or does not take it, or
            `dry_run` is not empty.
    """
    from huggingface_hub import HfApi

    dry_run = options.dry_run
    check_name(options.repository)
    if dry_run is not None and dry_run.exists() and (not dry_run.is_dir() or any(dry_run.iterdir())):
        raise UsageError(f"--dry-run {dry_run}: is not empty. Name another folder.")
    contents = _contents_of(options.source)
    if dry_run is not None:
        dry_run.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=None if dry_run is None else dry_run.parent, prefix=".release-") as aside:
        folder = Path(aside) / "staged"
        _stage(contents, folder, options)
        _check(contents, folder)
        if dry_run is not None:
            os.replace(folder, dry_run)
            return None
        client = api or HfApi()
        with in_one_line(options.repository):
            create_repository(client, options.repository, options.private or None, "dataset", patience)
            return commit_folder(
                client,
                folder,
                options.repository,
                options.revision,
                message="Tokenised corpus" if contents.corpus else "Fill-mask prompts",
                kind="dataset",
                replaced=_is_ours,
                patience=patience,
            )


def _contents_of(source: str) -> _Contents:
    from llm_jp_modernbert.evaluation.tasks.fill_mask import PROMPTS as OURS
    from llm_jp_modernbert.evaluation.tasks.fill_mask import read_prompts

    path = Path(source).expanduser()
    if path.is_dir():
        return _corpus(path)
    ours = source == FILL_MASK
    if not ours and not path.is_file():
        raise UsageError(
            f"{source}: no such folder or file. Name a folder that tokenize-corpus wrote, {FILL_MASK} for the prompts "
            "of this package, or a JSON-lines file of prompts."
        )
    prompts = read_prompts(OURS if ours else path)
    columns = ["id", "category", "text", "answers"]
    streamed = {
        "columns": columns,
        "rows": len(prompts),
        "items": {"answers": sum(len(prompt.answers) for prompt in prompts)},
    }
    license, languages = ("apache-2.0", ("ja", "en")) if ours else (UNKNOWN_LICENSE, ("ja",))
    return _Contents(source, "test", ".jsonl", streamed, license, languages, prompts=prompts)


def _corpus(folder: Path) -> _Contents:
    """A tokenised corpus that is whole, with a manifest that names no folder of this machine."""
    from llm_jp_modernbert.inference.loading import load_tokenizer
    from llm_jp_modernbert.training.data.encoding import vocabulary_hash
    from llm_jp_modernbert.training.data.readers import MANIFEST
    from llm_jp_modernbert.training.data.tokenize_corpus import TOKENIZER

    if not (folder / MANIFEST).is_file():
        if (folder / DATA).is_dir() and (folder / TOKENIZER).is_dir():
            raise UsageError(
                f"{folder}: a tokenised corpus that is not finished. Run the same tokenize-corpus command again: it "
                "goes on from there."
            )
        raise UsageError(
            f"{folder}: no tokenised corpus, which has a {MANIFEST}. Name one that tokenize-corpus wrote."
        )
    try:
        manifest = _public(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
        listed = {shard["file"] for source in manifest["sources"] for shard in source["shards"]}
        totals, made_with = manifest["totals"], manifest["tokenizer"]
        streamed = {
            "columns": ["input_ids", "characters", "row"],
            "rows": totals["documents"],
            "sums": {"characters": totals["characters"]},
            "items": {"input_ids": totals["tokens"]},
        }
        vocabulary = made_with["sha256"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{folder / MANIFEST}: not what tokenize-corpus writes ({error!r}).") from error
    there = {file.name for file in (folder / DATA).glob("*.arrow")}
    for name in sorted(listed ^ there):
        fault = "is listed, but not there" if name in listed else "is there, but not listed"
        raise UsageError(f"{folder / DATA / name}: {fault} in {MANIFEST}. Tokenise the corpus again.")
    if vocabulary_hash(load_tokenizer(str(folder / TOKENIZER))) != vocabulary:
        raise UsageError(f"{folder / TOKENIZER}: not the tokenizer that {MANIFEST} names. Tokenise the corpus again.")
    return _Contents(str(folder), "train", ".arrow", streamed, UNKNOWN_LICENSE, ("ja",), corpus=manifest)


def _public(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest whose sources are called by the names of their files."""
    sources = []
    for source in manifest["sources"]:
        path, name = source["path"], Path(source["path"]).name
        problems = [problem.replace(path, name) for problem in source["problems"]]
        sources.append({**source, "path": name, "problems": problems})
    return {**manifest, "sources": sources}


def _stage(contents: _Contents, folder: Path, options: DatasetOptions) -> None:
    from llm_jp_modernbert.model_cards.dataset_card import DatasetFacts, dataset_card

    from .staging import stage_license

    (folder / DATA).mkdir(parents=True)
    if contents.corpus is None:
        _stage_prompts(contents.prompts, folder)
    else:
        _stage_corpus(Path(contents.source), contents.corpus, folder)
    license = options.license or contents.license
    stage_license(license, None, folder)
    facts = DatasetFacts(
        repository=options.repository,
        revision=None if options.revision == MAIN else options.revision,
        license=license,
        languages=options.languages or contents.languages,
        split=contents.split,
        files=f"{DATA}/*{contents.suffix}",
        rows=contents.streamed["rows"],
        size=sum(file.stat().st_size for file in (folder / DATA).iterdir()),
        corpus=contents.corpus,
        prompts=contents.prompts,
    )
    (folder / CARD).write_text(dataset_card(facts), encoding="utf-8")


def _stage_prompts(prompts: Sequence[Prompt], folder: Path) -> None:
    rows = [
        {"id": prompt.id, "category": prompt.category, "text": prompt.text, "answers": list(prompt.answers)}
        for prompt in prompts
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / DATA / PROMPTS).write_text(lines, encoding="utf-8")


def _stage_corpus(source: Path, manifest: dict[str, Any], folder: Path) -> None:
    from llm_jp_modernbert.training.data.readers import MANIFEST
    from llm_jp_modernbert.training.data.tokenize_corpus import TOKENIZER

    for shard in sorted((source / DATA).glob("*.arrow")):
        _link(shard.resolve(), folder / DATA / shard.name)
    shutil.copytree(source / TOKENIZER, folder / TOKENIZER)
    (folder / MANIFEST).write_text(json.dumps(manifest, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _link(file: Path, link: Path) -> None:
    """Shards are large: they are linked, and between two file systems by name."""
    try:
        os.link(file, link)
    except OSError:
        link.symlink_to(file)


def _check(contents: _Contents, folder: Path) -> None:
    """Streams what is staged as anyone would, and counts."""
    found = stream_alone(folder, contents.split, contents.source)
    for what, wanted in contents.streamed.items():
        # Of sums and the like, those that are known.
        got = {name: found[what].get(name) for name in wanted} if isinstance(wanted, dict) else found[what]
        if got != wanted:
            raise UsageError(f"{contents.source}: streamed, its {what} are {got}, and should be {wanted}.")
    if contents.corpus is not None:
        vocabulary, largest = contents.corpus["tokenizer"]["vocabulary"], found["largest"]["input_ids"]
        if largest >= vocabulary:
            raise UsageError(f"{contents.source}: holds id {largest:,}, and its tokenizer has {vocabulary:,} tokens.")


def _is_ours(path: str) -> bool:
    """Whether an earlier release may have left a file that this one does not hold."""
    return path.startswith((f"{DATA}/", "tokenizer/")) or path in ("manifest.json", "LICENSE")

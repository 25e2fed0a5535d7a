"""Releases of datasets: tokenized corpora, and prompts of the fill-mask test.

A corpus stays in Arrow's streaming format, as `tokenize-corpus` writes it. `datasets` reads it about twice as fast as
Parquet, because nothing is decoded, and the Hub's viewer supports both. Shards are linked, not rewritten: a release
needs no disk space, its bytes do not depend on library versions, and a downloaded repository is a tokenized corpus
again. The price is size: token ids in Parquet need less than half of it. Prompts are JSON Lines, which are readable.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.clean_process import run_alone
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import atomic_directory, lock, read_json
from llm_jp_modernbert.core.hub import MAIN, PATIENT, Committed, Patience, check_name, commit_folder, create_repository
from llm_jp_modernbert.core.hub_errors import one_line_errors

from .options import DEFAULT_LICENSE, DatasetOptions
from .staging import CARD, check_links, check_secrets, stage_license

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from transformers import PreTrainedTokenizerBase

    from llm_jp_modernbert.evaluation.tasks.fill_mask import Prompt
    from llm_jp_modernbert.training.data.manifest import Manifest

logger = logging.getLogger(__name__)

FILL_MASK = "fill-mask"
"""Value of `source` for the prompts of this package."""

DATA = "data"
PROMPTS = "prompts.jsonl"

UNKNOWN_LICENSE = "unknown"

# Documents of each source in which Japanese is looked for.
_SAMPLE = 100


@dataclass(frozen=True)
class _Contents:
    """Contents and default metadata of a dataset.

    Attributes:
        source: name given by the user.
        expected: the counts that `plain_stream.py` must return.
        corpus: manifest of a tokenized corpus, without local paths; None for prompts.
    """

    source: str
    split: str
    suffix: str
    expected: dict[str, Any]
    license: str
    languages: tuple[str, ...]
    corpus: dict[str, Any] | None = None
    prompts: Sequence[Prompt] = ()


def release_dataset(
    options: DatasetOptions, patience: Patience = PATIENT, api: HfApi | None = None
) -> Committed | None:
    """Stages a dataset with its card, streams it with `datasets` alone, and uploads it in one commit.

    Returns:
        The commit; None for a dry run. An unchanged dataset makes no new commit.

    Raises:
        UsageError: the source is not such a dataset or is damaged, the Hub refuses the upload or is unreachable, or
            `dry_run` is not empty.
    """
    from huggingface_hub import HfApi

    check_name(options.repository)
    contents = _contents_of(options.source)
    with ExitStack() as stack:
        if options.dry_run is None:
            folder = Path(stack.enter_context(TemporaryDirectory()))
        else:
            stack.enter_context(lock(options.dry_run, "release-dataset"))
            folder = stack.enter_context(atomic_directory(options.dry_run))
        _stage(contents, folder, options)
        _check(contents, folder)
        if options.dry_run is not None:
            return None
        client = api or HfApi()
        with one_line_errors(options.repository):
            create_repository(client, options.repository, options.private or None, "dataset", patience)
            return commit_folder(
                client,
                folder,
                options.repository,
                options.revision,
                message="Tokenized corpus" if contents.corpus else "Fill-mask prompts",
                kind="dataset",
                replaced=lambda path: (
                    path.startswith((f"{DATA}/", "tokenizer/")) or path in ("manifest.json", "LICENSE")
                ),
                patience=patience,
            )


def _contents_of(source: str) -> _Contents:
    from llm_jp_modernbert.evaluation.tasks.fill_mask import PROMPTS as OURS
    from llm_jp_modernbert.evaluation.tasks.fill_mask import read_prompts

    path = Path(os.path.expanduser(source))
    if path.is_dir():
        return _corpus(path)
    ours = source == FILL_MASK
    if not ours and not path.is_file():
        raise UsageError(
            f"{source}: no such file or directory. Name an output directory of tokenize-corpus, {FILL_MASK} for the "
            "prompts of this package, or a JSON Lines file of prompts."
        )
    prompts = read_prompts(OURS if ours else path)
    expected = {
        "columns": ["id", "category", "text", "answers"],
        "rows": len(prompts),
        "items": {"answers": sum(len(prompt.answers) for prompt in prompts)},
    }
    texts = (prompt.text for prompt in prompts)
    license, languages = (DEFAULT_LICENSE, ("ja", "en")) if ours else (UNKNOWN_LICENSE, _languages(texts))
    return _Contents(source, "test", ".jsonl", expected, license, languages, prompts=prompts)


def _languages(texts: Iterable[str]) -> tuple[str, ...]:
    """`ja` if a text has kana. Other languages are left to the user."""
    return ("ja",) if any(re.search("[ぁ-ヿ]", text) for text in texts) else ()


def _sample(folder: Path, manifest: Manifest, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """The first documents of each source of a tokenized corpus, as tokens."""
    from llm_jp_modernbert.training.data.readers import Document, read_rows

    for source in manifest["sources"]:
        for shard in source["shards"][:1]:
            for row in islice(read_rows(str(folder / DATA / shard["file"])), _SAMPLE):
                if isinstance(row, Document) and row.ids is not None:
                    ids = [token for token in row.ids.tolist() if 0 <= token < len(tokenizer)]
                    yield "".join(tokenizer.convert_ids_to_tokens(ids))


def _corpus(folder: Path) -> _Contents:
    """Reads and checks the manifest of a tokenized corpus, without local paths."""
    from llm_jp_modernbert.inference.loading import load_tokenizer
    from llm_jp_modernbert.training.data.encoding import vocabulary_hash
    from llm_jp_modernbert.training.data.manifest import MANIFEST, TOKENIZER, Manifest

    if not (folder / MANIFEST).is_file():
        if (folder / DATA).is_dir() and (folder / TOKENIZER).is_dir():
            raise UsageError(
                f"{folder}: an unfinished tokenized corpus. Run the same tokenize-corpus command again to resume."
            )
        raise UsageError(
            f"{folder} holds no {MANIFEST}, so it is not a tokenized corpus. Name an output directory of "
            "tokenize-corpus."
        )
    try:
        manifest = read_json(folder / MANIFEST, Manifest)
    except UsageError as error:
        raise UsageError(f"{error} The file is not a manifest of tokenize-corpus.") from error
    listed = {shard["file"] for source in manifest["sources"] for shard in source["shards"]}
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
    existing = {file.name for file in (folder / DATA).glob("*.arrow")}
    for name in sorted(listed ^ existing):
        fault = "is missing, but listed" if name in listed else "exists, but is not listed"
        raise UsageError(f"{folder / DATA / name}: {fault} in {MANIFEST}. Tokenize the corpus again.")
    check_links(folder, (f"{TOKENIZER}/*",))
    tokenizer = load_tokenizer(str(folder / TOKENIZER))
    if vocabulary_hash(tokenizer) != manifest["tokenizer"]["sha256"]:
        raise UsageError(f"{folder / TOKENIZER}: differs from the tokenizer in {MANIFEST}. Tokenize the corpus again.")
    languages = _languages(_sample(folder, manifest, tokenizer))
    return _Contents(str(folder), "train", ".arrow", expected, UNKNOWN_LICENSE, languages, corpus=manifest)


def _stage(contents: _Contents, folder: Path, options: DatasetOptions) -> None:
    from huggingface_hub import DatasetCard

    from llm_jp_modernbert.model_cards.check import validate_card
    from llm_jp_modernbert.model_cards.dataset_card import DatasetFacts, dataset_card

    (folder / DATA).mkdir()
    if contents.corpus is None:
        rows = [{key: getattr(prompt, key) for key in contents.expected["columns"]} for prompt in contents.prompts]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / DATA / PROMPTS).write_text(lines, encoding="utf-8")
    else:
        _stage_corpus(Path(contents.source), contents.corpus, folder)
    license = options.license or contents.license
    languages = tuple(options.languages) or contents.languages
    if not languages:
        logger.warning("The dataset card leaves out the language. Give --language.")
    stage_license(license, None, folder)
    facts = DatasetFacts(
        repository=options.repository,
        revision=None if options.revision == MAIN else options.revision,
        license=license,
        languages=languages,
        split=contents.split,
        files=f"{DATA}/*{contents.suffix}",
        rows=contents.expected["rows"],
        size=sum(file.stat().st_size for file in (folder / DATA).iterdir()),
        corpus=contents.corpus,
        prompts=contents.prompts,
    )
    card = dataset_card(facts)
    validate_card(DatasetCard(card), folder)
    (folder / CARD).write_text(card, encoding="utf-8")
    check_secrets(folder)


def _stage_corpus(source: Path, manifest: dict[str, Any], folder: Path) -> None:
    from llm_jp_modernbert.training.data.manifest import MANIFEST, TOKENIZER

    for shard in sorted((source / DATA).glob("*.arrow")):
        link = folder / DATA / shard.name
        try:
            os.link(shard.resolve(), link)
        except OSError:  # another file system
            link.symlink_to(shard.resolve())
    shutil.copytree(source / TOKENIZER, folder / TOKENIZER)
    (folder / MANIFEST).write_text(json.dumps(manifest, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _check(contents: _Contents, folder: Path) -> None:
    """Streams the staged dataset without this package and compares the counts."""
    failure = f"{contents.source}: datasets alone cannot stream it"
    streamed = run_alone("plain_stream.py", {"folder": str(folder), "split": contents.split}, failure)
    for quantity, expected in contents.expected.items():
        actual = streamed[quantity]
        if isinstance(expected, dict):
            actual = {column: actual.get(column) for column in expected}
        if actual != expected:
            raise UsageError(f"{contents.source}: streaming gives {quantity} {actual}, expected {expected}.")
    if contents.corpus is not None:
        vocabulary = contents.corpus["tokenizer"]["vocabulary"]
        for unknown in (streamed[quantity]["input_ids"] for quantity in ("smallest", "largest")):
            if not 0 <= unknown < vocabulary:
                raise UsageError(
                    f"{contents.source}: contains token id {unknown:,}, but its tokenizer has {vocabulary:,} tokens."
                )

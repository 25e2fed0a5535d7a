"""Releases of datasets: prepared and tokenized corpora, and prompts of the fill-mask test.

A corpus stays in the format in which it was written: texts in Parquet, token ids in Arrow's streaming format.
`datasets` reads token ids about twice as fast as from Parquet, because nothing is decoded, and the Hub's viewer
supports both. Shards are linked, not rewritten: a release needs no disk space, its bytes do not depend on library
versions, and a downloaded repository is a corpus again. The price is size: token ids in Parquet need less than half of
it. Prompts are JSON Lines, which are readable.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from llm_jp_modernbert.core.clean_process import run_alone
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import atomic_directory, lock
from llm_jp_modernbert.core.hub import MAIN, PATIENT, Committed, Patience, check_name, commit_folder, create_repository
from llm_jp_modernbert.core.hub_errors import one_line_errors

from .dataset_contents import DATA, Contents, Split, contents_of
from .options import DatasetOptions
from .staging import CARD, check_secrets, stage_license

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)

# Paths of an earlier release that this one replaces.
_FOLDERS = tuple(f"{folder}/" for folder in (DATA, "tokenizer", "train", "validation"))
_FILES = ("manifest.json", "LICENSE")


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
    contents = contents_of(options.source)
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
                message=contents.title,
                kind="dataset",
                replaced=lambda path: path.startswith(_FOLDERS) or path in _FILES,
                patience=patience,
            )


def _stage(contents: Contents, folder: Path, options: DatasetOptions) -> None:
    from huggingface_hub import DatasetCard

    from llm_jp_modernbert.model_cards.check import validate_card
    from llm_jp_modernbert.model_cards.dataset_card import DatasetFacts, SplitFacts, dataset_card

    contents.stage(folder)
    license = options.license or contents.license
    languages = tuple(options.languages) or contents.languages
    if not languages:
        logger.warning("The dataset card leaves out the language. Give --language.")
    stage_license(license, None, folder)
    splits = [
        SplitFacts(
            split.name,
            split.files,
            rows=split.expected["rows"],
            size=sum(file.stat().st_size for file in folder.glob(split.files)),
        )
        for split in contents.splits
    ]
    facts = DatasetFacts(
        repository=options.repository,
        revision=None if options.revision == MAIN else options.revision,
        license=license,
        languages=languages,
        splits=splits,
        corpus=contents.tokenized,
        prepared=contents.prepared,
        report=contents.report,
        prompts=contents.prompts,
    )
    card = dataset_card(facts)
    validate_card(DatasetCard(card), folder)
    (folder / CARD).write_text(card, encoding="utf-8")
    check_secrets(folder)


def _check(contents: Contents, folder: Path) -> None:
    """Streams the staged dataset without this package and compares the counts."""
    for split in contents.splits:
        _check_split(contents, split, folder)


def _check_split(contents: Contents, split: Split, folder: Path) -> None:
    failure = f"{contents.source}: datasets alone cannot stream it"
    streamed = run_alone("plain_stream.py", {"folder": str(folder), "split": split.name}, failure)
    for quantity, expected in split.expected.items():
        actual = streamed[quantity]
        if isinstance(expected, dict):
            actual = {column: actual.get(column) for column in expected}
        if actual != expected:
            raise UsageError(f"{contents.source}: streaming gives {quantity} {actual}, expected {expected}.")
    if contents.tokenized is not None:
        vocabulary = contents.tokenized["tokenizer"]["vocabulary"]
        for unknown in (streamed[quantity]["input_ids"] for quantity in ("smallest", "largest")):
            if not 0 <= unknown < vocabulary:
                raise UsageError(
                    f"{contents.source}: contains token id {unknown:,}, but its tokenizer has {vocabulary:,} tokens."
                )

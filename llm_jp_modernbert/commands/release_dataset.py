"""`llm-jp-modernbert release-dataset`: publishes a dataset."""

from __future__ import annotations

from llm_jp_modernbert.core.terminal import quiet_libraries
from llm_jp_modernbert.publishing.options import DatasetOptions

from .options import takes


@takes(DatasetOptions)
def release_dataset(options: DatasetOptions) -> None:
    """Checks a corpus or fill-mask prompts and publishes them on the Hub with a card, in one commit.

    Examples:

    * `llm-jp-modernbert release-dataset corpus-tokenized --repo ORG/NAME --license cc-by-sa-4.0 --private`

    * `llm-jp-modernbert release-dataset corpus --repo ORG/NAME --language ja`

    * `llm-jp-modernbert release-dataset fill-mask --repo ORG/NAME --dry-run staged`
    """
    from llm_jp_modernbert.publishing.release_dataset import release_dataset as run

    quiet_libraries()
    committed = run(options)
    if committed is None:
        print(f"Dry run: the checked dataset is in {options.dry_run}. Nothing was uploaded.")
    else:
        unchanged = "" if committed.is_new else "unchanged, "
        print(f"{options.repository}@{options.revision}: {unchanged}commit {committed.info.oid}")

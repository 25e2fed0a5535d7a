"""`llm-jp-modernbert release`: publishes a model."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llm_jp_modernbert.core.terminal import printable, quiet_libraries
from llm_jp_modernbert.publishing.options import ReleaseOptions

from .options import takes


@takes(ReleaseOptions)
def release(options: ReleaseOptions) -> None:
    """Checks a model and publishes it on the Hub with a model card, in one commit.

    The model has any head of ModernBERT, or is one of sentence-transformers. Before the upload, transformers loads the
    release without this package, its outputs are compared with the source's, the examples of the card are run, and the
    card's metadata is validated. After a broken connection, run the same command again to resume. An unchanged
    release makes no new commit.

    Examples:

    * `llm-jp-modernbert release runs/stage2 --repo ORG/NAME --results results --private`

    * `llm-jp-modernbert release runs/stage2 --repo ORG/NAME --dry-run staged --onnx --sentence-transformers`

    * `llm-jp-modernbert release my-classifier --repo ORG/NAME`

    * `llm-jp-modernbert release runs/stage2 --repo ORG/NAME --space ORG/NAME-demo`
    """
    from llm_jp_modernbert.publishing.release import release as run
    from llm_jp_modernbert.publishing.space import folder_beside

    quiet_libraries()
    released, console = run(options), Console()
    checked = released.checked
    masks = Table("masked text", "filled by the release", box=None)
    for example in checked.examples:
        answers = (f"{answer} {probability:.0%}" for answer, probability in example.answers)
        masks.add_row(Text(printable(example.text)), Text(printable("  ".join(answers))))
    if checked.examples:
        console.print(masks)
    else:
        for title, printed in checked.outputs.items():
            lines = "\n".join(map(printable, printed.splitlines()))
            console.print(Text(title, style="bold"), Text(lines), sep="\n", soft_wrap=True)
    files = Table("file", "size", box=None)
    for path, size in released.files.items():
        shown = f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"
        files.add_row(Text(printable(path)), Text(shown, justify="right"))
    console.print(files)
    console.print(
        f"With transformers alone, the outputs equal the source's within {checked.difference:.1e}.", highlight=False
    )
    if options.dry_run is not None:
        written = str(options.dry_run)
        if options.space is not None:
            written += f", its Space in {folder_beside(options.dry_run)}"
        message = f"Dry run: the release is in {written}. Nothing was uploaded."
    elif released.is_new:
        message = f"Released as {options.repository}@{options.revision}, commit {str(released.commit)[:12]}."
    else:
        message = f"{options.repository}@{options.revision} is up to date: no new commit."
    if options.dry_run is None and options.space is not None:
        message += f" Its Space is https://huggingface.co/spaces/{options.space}."
        if options.private:
            message += " Add a token that reads the model to the Space's secrets, as HF_TOKEN."
    console.print(Text(printable(message)), soft_wrap=True)

"""`llm-jp-modernbert serve-check`: proves a model in the runtimes that people serve with."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from llm_jp_modernbert.core.terminal import printable, quiet_libraries
from llm_jp_modernbert.publishing.serving.options import ServeCheckOptions

from .options import takes


@takes(ServeCheckOptions)
def serve_check(options: ServeCheckOptions) -> None:
    """Compares a model's outputs in each installed runtime with torch's, on ten texts.

    The texts are Japanese with masks, emoji and rare characters; one is empty and one as long as the context. Each
    runtime runs in a separate process. The result is written to serving.json in the directory, which `release` shows
    in the model card as long as the model is unchanged. Ends with code 1 if a runtime fails.

    Examples:

    * `llm-jp-modernbert serve-check staged`

    * `llm-jp-modernbert serve-check staged --python old-env/bin/python --python vllm-env/bin/python`
    """
    from llm_jp_modernbert.model_cards.serving import RECORD, explanation, heading, shown
    from llm_jp_modernbert.publishing.serving.check import serve_check as run

    quiet_libraries()
    record, console = run(options), Console()

    def show(line: str, indent: int = 0) -> None:
        console.print(Padding(Text(printable(line)), (0, 0, 0, indent), expand=False))

    show(f"Largest difference from torch, on ten texts of at most {record['longest']:,} tokens:\n")
    last = ""
    for row in record["rows"]:
        if row["status"] in ("ok", "failed") and row["output"]:
            if heading(row) != last:
                last = heading(row)
                show(last)
            show(f"{row['output']:<40} {shown(row):>8}  {row['status']}", indent=2)
    # Several runtimes may have the same reason.
    reasons: dict[str, list[str]] = {}
    for row in record["rows"]:
        if row["reason"]:
            text = f"{row['status'].capitalize()}: {explanation(row)}"
            reasons.setdefault(text, []).append(", ".join(filter(None, (heading(row), row["output"]))))
    for text, names in reasons.items():
        show("\n" + "\n".join(names))
        show(text, indent=2)
    written = f"\nWritten to {options.folder / RECORD}. The card of a release of this directory shows the table."
    console.print(Text(printable(written)), soft_wrap=True)
    if any(row["status"] == "failed" for row in record["rows"]):
        raise typer.Exit(1)

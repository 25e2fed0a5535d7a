"""`llm-jp-modernbert serve-check`: proves a model in the runtimes that people serve with."""

from __future__ import annotations

import typer
from rich.console import Console
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
    from llm_jp_modernbert.model_cards.serving import RECORD, shown
    from llm_jp_modernbert.publishing.serving.check import serve_check as run

    quiet_libraries()
    record, console = run(options), Console()
    lines = [f"Outputs compared with torch, ten texts of at most {record['longest']:,} tokens"]
    for row in record["rows"]:
        if row["output"]:
            heading = f"  {row['runtime']} {row['version']}"
            if heading not in lines:
                lines.append(heading)
            lines.append(f"    {row['output']:<32} {shown(row):>13}  {row['status']}")
    console.print(Text(printable("\n".join(lines))), soft_wrap=True)
    for row in record["rows"]:
        if row["reason"]:
            runtime = f"{row['runtime']} {row['version']}".strip()
            line = f"{runtime}, {row['status']}: {row['reason']}. {row['fix']}".strip()
            console.print(Text(printable(line)), soft_wrap=True)
    console.print(Text(printable(f"Written to {options.folder / RECORD}.")), soft_wrap=True)
    if any(row["status"] == "failed" for row in record["rows"]):
        raise typer.Exit(1)

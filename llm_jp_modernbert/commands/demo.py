"""`llm-jp-modernbert demo`: models in the browser."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.terminal import quiet_libraries

_DEFAULT_MODEL = "llm-jp/llm-jp-modernbert-base"


def demo(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"Local paths, repositories, or ORG/NAME@REVISION. By default {_DEFAULT_MODEL}.", show_default=False
        ),
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Results directory of the evaluate command, for the leaderboard.")
    ] = None,
    language: Annotated[
        Literal["en", "ja"] | None,
        typer.Option(help="Language of the interface. By default that of each visitor's browser."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for the whole network.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="By default the first free port from 7860.", min=1, max=65535)
    ] = None,
    share: Annotated[
        bool, typer.Option("--share", help="Open a public link for 72 hours through Gradio's servers.")
    ] = False,
) -> None:
    """Opens a page that tries models in the browser.

    The page fills masks with several models side by side, shows tokens, searches a document, colours a text by its
    pseudo-perplexity, compares sentences, and shows a leaderboard. Visitors use the models named here and no others.

    Examples:

    * `llm-jp-modernbert demo quickstart-model`

    * `llm-jp-modernbert demo my-model llm-jp/llm-jp-modernbert-base --results results --language ja`
    """
    if find_spec("gradio") is None:
        raise UsageError("demo needs Gradio: pip install 'llm-jp-modernbert[demo]'.")
    from llm_jp_modernbert.demo.app import launch

    quiet_libraries()
    blocks, address = launch(models or [_DEFAULT_MODEL], results, language, host, port, share)
    print(f"Open {address} in a browser. Stop with Ctrl+C.", flush=True)
    blocks.block_thread()

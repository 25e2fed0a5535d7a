"""`llm-jp-modernbert fill-mask`: predicts masked tokens."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated, Literal

import typer
from rich.console import Console

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.terminal import quiet_libraries


def fill_mask(
    model: Annotated[str, typer.Argument(help="Local path, repository, or ORG/NAME@REVISION.")],
    texts: Annotated[
        list[str],
        typer.Argument(
            help="Texts with `[MASK]`, `<mask>`, `{mask}` or the tokenizer's mask token. `-` reads one text per line "
            "from standard input."
        ),
    ],
    top_k: Annotated[int, typer.Option(help="Number of candidates per mask.", min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Local path, repository or .model file of a tokenizer. By default the model's own."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the model's repository.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Device such as cpu or cuda:0. By default a GPU if there is one.")
    ] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(
            metavar="<type>",
            help="Data type of weights and computation: float32, bfloat16, float16, or auto for the checkpoint's.",
        ),
    ] = "auto",
    fast: Annotated[
        bool,
        typer.Option("--fast", help="Use the CPU with packed float16 weights: faster for single sentences."),
    ] = False,
) -> None:
    """Predicts the masked tokens of texts.

    Examples:

    * `llm-jp-modernbert fill-mask llm-jp/llm-jp-modernbert-base "今日のご飯は[MASK]である。" --top-k 10`

    * `llm-jp-modernbert fill-mask quickstart-model - --json --fast < texts.txt`
    """
    if fast and (dtype != "auto" or device not in (None, "cpu")):
        raise UsageError("--fast sets the device and the data type. Drop --device and --dtype, or --fast.")
    stdin = [line.rstrip("\r\n") for line in sys.stdin if line.strip()] if "-" in texts else []
    texts = [line for text in texts for line in (stdin if text == "-" else [text])]
    if not texts:
        raise UsageError("standard input holds no text. Give one text per line.")
    from llm_jp_modernbert.inference.fill_mask import fill_masks, render
    from llm_jp_modernbert.inference.loading import load_masked_lm, load_tokenizer

    quiet_libraries()
    if fast:
        from llm_jp_modernbert.inference.packed_weights import load_fast_masked_lm

        masked_lm = load_fast_masked_lm(model, revision)
    else:
        masked_lm = load_masked_lm(model, revision, dtype, device)
    loaded_tokenizer = load_tokenizer(tokenizer) if tokenizer else load_tokenizer(model, revision)
    results = fill_masks(masked_lm, loaded_tokenizer, texts, top_k)
    if as_json:
        print(json.dumps([asdict(result) for result in results], ensure_ascii=False, indent=2))
        return
    console = Console()
    for number, result in enumerate(results):
        if number:
            console.print()
        console.print(render(result, str(loaded_tokenizer.mask_token)))

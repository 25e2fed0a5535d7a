"""`llm-jp-modernbert fill-mask`: predicts masked tokens."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.terminal import quiet_libraries
from llm_jp_modernbert.core.text_files import STDIN, BadRow, read_rows
from llm_jp_modernbert.inference.encoder.choice import BackendName

if TYPE_CHECKING:
    from llm_jp_modernbert.inference.fill_mask import FilledText

logger = logging.getLogger(__name__)

_SHOWN_PROBLEMS = 10


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
            help="Data type of weights and computation: float32, bfloat16, float16, or auto for the checkpoint's. "
            "float16 on a CPU stores the weights in float16 and computes in float32: faster for single sentences.",
        ),
    ] = "auto",
    backend: Annotated[
        BackendName,
        typer.Option(
            help="Program that computes: auto is the fastest one installed. onnx and openvino export the model into a "
            "cache on first use, which takes a minute.",
        ),
    ] = "torch",
) -> None:
    """Predicts the masked tokens of texts. Texts that cannot be used are reported, and the others are predicted.

    Examples:

    * `llm-jp-modernbert fill-mask llm-jp/llm-jp-modernbert-base "今日のご飯は[MASK]である。" --top-k 10`

    * `llm-jp-modernbert fill-mask quickstart-model - --json --dtype float16 < texts.txt`
    """
    given = list(_texts(texts))
    if not given:
        raise UsageError("standard input holds no text. Give one text per line.")
    problems = [str(text) for _, text in given if isinstance(text, BadRow)]
    usable = [(place, text) for place, text in given if isinstance(text, str)]
    from llm_jp_modernbert.inference.encoder.encoder import load_encoder
    from llm_jp_modernbert.inference.heads import MASKED_LM

    quiet_libraries()
    encoder = load_encoder(model, backend, dtype, device, revision, MASKED_LM, tokenizer)
    results = encoder.fill_mask(
        [text for _, text in usable],
        top_k,
        problems=lambda index, error: problems.append(f"{usable[index][0]} {error}"),
    )
    if results:
        _print(results, str(encoder.tokenizer.mask_token), as_json)
    if len(given) > 1:
        for problem in problems[:_SHOWN_PROBLEMS]:
            logger.warning(problem)
        problems = problems and [f"{len(problems)} of {len(given)} texts cannot be used."]
    if problems:
        raise UsageError(problems[0])


def _texts(arguments: Sequence[str]) -> Iterator[tuple[str, str | BadRow]]:
    """The place and the text of each argument and of each line of standard input that is not blank."""
    for number, text in enumerate(arguments, start=1):
        if text != STDIN:
            yield f"text {number} ({text[:20]}{'…' if text[20:] else ''})", text
            continue
        for row, line in read_rows(STDIN):
            if isinstance(line, BadRow) or line.strip():
                yield f"standard input, row {row}", line


def _print(results: Sequence[FilledText], mask_token: str, as_json: bool) -> None:
    from llm_jp_modernbert.inference.fill_mask import render

    if as_json:
        print(json.dumps([asdict(result) for result in results], ensure_ascii=False, indent=2))
        return
    console = Console()
    for number, result in enumerate(results):
        if number:
            console.print()
        console.print(render(result, mask_token))

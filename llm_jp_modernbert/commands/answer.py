"""`llm-jp-modernbert answer`: answers questions about a passage."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Literal

import typer
from rich.console import Console

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.terminal import printable, quiet_libraries
from llm_jp_modernbert.core.text_files import read_text


def answer(
    model: Annotated[str, typer.Argument(help="Local path, repository, or ORG/NAME@REVISION.")],
    question: Annotated[list[str], typer.Option(help="Question about the passage. Repeatable.")],
    context: Annotated[
        str | None, typer.Option(metavar="<file>", help="File of the passage; `-` reads standard input.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="The passage itself, instead of --context.")] = None,
    top_k: Annotated[int, typer.Option(help="Maximum number of answers per question.", min=1)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
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
) -> None:
    """Answers questions by spans of a passage.

    Each answer has its probability among all spans of the passage, and its place in characters; a line break counts
    as one. A passage beyond the model's context length is read in overlapping windows.

    Examples:

    * `llm-jp-modernbert answer my-reader --question "建てられたのは何年？" --context passage.txt`

    * `llm-jp-modernbert answer my-reader --question "休館日は？" --text "休館日は毎週月曜日である。" --top-k 3`
    """
    if (context is None) == (text is None):
        raise UsageError("give the passage: either --context FILE or --text TEXT.")
    passage = read_text(context) if context is not None else str(text)
    from llm_jp_modernbert.inference import question_answering
    from llm_jp_modernbert.inference.heads import QUESTION_ANSWERING
    from llm_jp_modernbert.inference.loading import load_model, load_tokenizer

    question_answering.check_text("passage", passage)
    for asked in question:
        question_answering.check_text("question", asked)
    quiet_libraries()
    reader = load_model(model, QUESTION_ANSWERING, dtype=dtype, device=device)
    tokenizer = load_tokenizer(model)
    answers = [question_answering.answer(reader, tokenizer, asked, passage, top_k) for asked in question]
    if as_json:
        pairs = zip(question, answers, strict=True)
        results = [{"question": asked, "answers": [asdict(one) for one in found]} for asked, found in pairs]
        print(json.dumps(results, ensure_ascii=False, indent=2))
        return
    console = Console(highlight=False)
    for number, (asked, found) in enumerate(zip(question, answers, strict=True)):
        if number:
            console.print()
        if len(question) > 1:
            console.print(printable(asked), style="bold", markup=False)
        # Lines are not wrapped in a file or a pipe.
        console.print(question_answering.render(passage, found), soft_wrap=not console.is_terminal)

"""Options that several cases share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from llm_jp_modernbert.core.errors import UsageError

Shape = Annotated[Literal["nano", "small", "base"], typer.Option(help="Shape of the models.")]
Dtype = Annotated[Literal["float32", "bfloat16"], typer.Option(help="Data type of weights and activations.")]
Compiled = Annotated[bool, typer.Option(help="Also measure this library with compiled layers.")]
Tokenizer = Annotated[str, typer.Option(help="Tokenizer: a directory, repository or SentencePiece .model file.")]


def whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """Parse comma-separated positive integers.

    Args:
        option: name of the option, for the error message.
        text: value of the option.

    Raises:
        UsageError: a part is not a positive integer.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"{option} {text}: expected comma-separated positive integers.")
    return tuple(int(part) for part in parts)

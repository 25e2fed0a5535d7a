"""`llm-jp-modernbert fill-mask`: candidates for masked tokens."""

from __future__ import annotations

import json
from enum import Enum
from typing import Annotated

import typer
from rich.console import Console

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.terminal import lines_of_input, quiet_libraries


class DType(str, Enum):
    """Numbers that a model computes with."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def fill_mask(
    model: Annotated[str, typer.Argument(help="Directory, repository, or repository at a revision (ORG/NAME@REV).")],
    texts: Annotated[
        list[str],
        typer.Argument(
            help="Texts with [MASK], <mask>, {mask} or the tokenizer's own mask; `-` reads lines of input."
        ),
    ],
    top_k: Annotated[int, typer.Option(help="Candidates per mask.", min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    tokenizer: Annotated[
        str | None, typer.Option(help="Another tokenizer than the model's own: directory, repository or .model file.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the model's repository.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Such as cpu or cuda:0; by default a GPU if there is one.")
    ] = None,
    dtype: Annotated[DType, typer.Option(help="Numbers to compute with; auto is as saved.")] = DType.auto,
    fast: Annotated[
        bool,
        typer.Option("--fast", help="On a CPU, in float32 with weights packed as float16: the same, in less time."),
    ] = False,
) -> None:
    """Candidates for the masked tokens of texts.

    Examples:

    * `llm-jp-modernbert fill-mask llm-jp/llm-jp-modernbert-base "今日のご飯は[MASK]である。" --top-k 10`

    * `llm-jp-modernbert fill-mask quickstart-model - --json --fast < texts.txt`
    """
    if fast and (dtype is not DType.auto or device not in (None, "cpu")):
        raise UsageError("--fast chooses device and numbers itself. Leave out --device and --dtype, or --fast.")
    texts = lines_of_input(texts)
    from llm_jp_modernbert.inference.fill_mask import fill_masks, render
    from llm_jp_modernbert.inference.loading import load_masked_lm, load_tokenizer

    quiet_libraries()
    if fast:
        from llm_jp_modernbert.inference.packed_weights import load_fast_masked_lm

        loaded = load_fast_masked_lm(model, revision)
    else:
        loaded = load_masked_lm(model, revision, dtype.value, device)
    its_tokenizer = load_tokenizer(tokenizer) if tokenizer else load_tokenizer(model, revision)
    results = fill_masks(loaded, its_tokenizer, texts, top_k)
    if as_json:
        print(json.dumps([result.as_dict() for result in results], ensure_ascii=False, indent=2))
        return
    console = Console()
    for number, result in enumerate(results):
        if number:
            console.print()
        console.print(render(result, str(its_tokenizer.mask_token)))

"""`llm-jp-modernbert index-blocks`: finds the positions of the blocks of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_jp_modernbert.core.terminal import quiet_libraries


def index_blocks(
    recipe: Annotated[str, typer.Argument(help="Name of a packaged recipe, or path of a YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Keys to change. block_index is the file to write.", metavar="[KEY=VALUE]…"),
    ] = None,
    epochs: Annotated[int, typer.Option(help="How often the data is read in the run.", min=1)] = 1,
) -> None:
    """Finds the positions of the blocks of a run, so that each data process reads only its own part of a large corpus.

    Reads the whole corpus once, without tokenizing it. A tokenized corpus is read fastest. Run the command again to
    resume an interrupted job, or with more epochs to extend the file.

    Examples:

    * `llm-jp-modernbert index-blocks stage1.yaml train_data=corpus-tokenized block_index=blocks.safetensors`
    """
    quiet_libraries()
    from llm_jp_modernbert.core.errors import UsageError
    from llm_jp_modernbert.training.assembly import make_blocks, make_tokenizer
    from llm_jp_modernbert.training.data.block_index import write_block_index
    from llm_jp_modernbert.training.recipe.loading import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    if loaded.block_index is None:
        raise UsageError("block_index: missing. Name the file to write, such as block_index=blocks.safetensors.")
    blocks = write_block_index(make_blocks(loaded, make_tokenizer(loaded)), Path(loaded.block_index), epochs)
    print(f"{blocks:,} blocks in {loaded.block_index}")

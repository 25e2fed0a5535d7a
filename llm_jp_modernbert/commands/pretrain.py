"""`llm-jp-modernbert pretrain`: pre-trains a model from a recipe."""

from __future__ import annotations

from typing import Annotated

import typer

from llm_jp_modernbert.core.terminal import quiet_libraries


def pretrain(
    recipe: Annotated[str, typer.Argument(help="A recipe that comes with the package, or a YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="key=value pairs that change it; values are YAML.", metavar="[KEY=VALUE]…"),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Show the resolved recipe, and do no more.")
    ] = False,
) -> None:
    """Pre-trains a model as a recipe says; over several processes with `accelerate launch -m
    llm_jp_modernbert.training.pretrain` in the place of `llm-jp-modernbert pretrain`.

    Recipes: nano and nano-stage2 (two cores, minutes), small and small-stage2 (one GPU, minutes), stage1 and stage2
    (this project's), paper-stage1 and paper-stage2 (the paper's).

    Examples:

    * `llm-jp-modernbert pretrain nano train_data=texts.jsonl.gz tokenizer=my-tokenizer output_dir=runs/nano`

    * `llm-jp-modernbert pretrain nano-stage2 init_from=runs/nano train_data=texts.jsonl.gz output_dir=runs/nano-8k`
    """
    quiet_libraries()
    from llm_jp_modernbert.training.recipe.loading import load_recipe, render

    arguments = load_recipe(recipe, overrides or ())
    if print_config:
        print(render(arguments))
        return
    from llm_jp_modernbert.publishing.release import prepare_checkpoint
    from llm_jp_modernbert.training.pretrain import pretrain as run

    run(arguments, prepare=prepare_checkpoint)

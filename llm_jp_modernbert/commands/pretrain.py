"""`llm-jp-modernbert pretrain`: pre-trains a model from a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llm_jp_modernbert.core.terminal import quiet_libraries

if TYPE_CHECKING:
    from llm_jp_modernbert.training.recipe.arguments import PretrainingArguments


def pretrain(
    recipe: Annotated[str, typer.Argument(help="Name of a packaged recipe, or path of a YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Keys to change. Values are YAML; null restores a default.", metavar="[KEY=VALUE]…"),
    ] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the resolved recipe and exit.")] = False,
    find_batch_size: Annotated[
        bool,
        typer.Option("--find-batch-size", help="Print the largest batch that fits on this GPU, and exit."),
    ] = False,
) -> None:
    """Pre-trains a model from a recipe.

    Recipes: `nano` and `nano-stage2` (two CPU cores, minutes), `small` and `small-stage2` (one GPU, minutes),
    `stage1` and `stage2` (8 or 16 GPUs, our settings), `paper-stage1` and `paper-stage2` (16 GPUs, the settings of
    the paper).

    Examples:

    * `llm-jp-modernbert pretrain nano train_data=texts.jsonl.gz tokenizer=my-tokenizer output_dir=runs/nano`

    * `llm-jp-modernbert pretrain small --find-batch-size train_data=corpus/ tokenizer=my-tokenizer output_dir=runs/x`

    * `llm-jp-modernbert pretrain nano-stage2 init_from=runs/nano train_data=texts.jsonl.gz output_dir=runs/nano-8k`

    To use several processes, replace `llm-jp-modernbert pretrain` by
    `accelerate launch -m llm_jp_modernbert.training.pretrain`.
    """
    quiet_libraries()
    from llm_jp_modernbert.training.recipe.loading import load_recipe, render

    loaded = load_recipe(recipe, overrides or ())
    if print_config:
        print(render(loaded))
        return
    if find_batch_size:
        _print_batch_size(loaded)
        return
    from llm_jp_modernbert.publishing.release import prepare_checkpoint
    from llm_jp_modernbert.training.pretrain import pretrain as run

    accelerator = run(loaded, prepare=prepare_checkpoint).accelerator
    # A rank that ends while others are connected to it can abort, and the launcher then ends the others as well.
    accelerator.wait_for_everyone()
    accelerator.end_training()


def _print_batch_size(recipe: PretrainingArguments) -> None:
    """Prints the keys of the largest batch that fits, as lines of a recipe."""
    from llm_jp_modernbert.core.errors import UsageError
    from llm_jp_modernbert.training.batch_size import find_batch_size
    from llm_jp_modernbert.training.report import device_line

    if recipe.device.type == "cpu":
        raise UsageError("--find-batch-size: needs a GPU. On a CPU, a batch that is too large ends the process.")
    size = find_batch_size(recipe)
    most = size.most_rows * recipe.sequence_length
    print(f"# {device_line(recipe.device, 1)}: batches of up to {most:,} tokens fit.")
    for key, value in size.keys(recipe).items():
        print(f"{key}: {value}")

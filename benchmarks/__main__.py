"""`python -m benchmarks NAME …`"""

from __future__ import annotations

import typer

from . import (
    encoder,
    encoding,
    fill_mask,
    loader,
    low_precision,
    packing,
    pseudo_perplexity,
    tokenizing,
    training_step,
)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
for module in (
    encoder,
    training_step,
    loader,
    packing,
    tokenizing,
    encoding,
    pseudo_perplexity,
    fill_mask,
    low_precision,
):
    app.command(module.__name__.rpartition(".")[2].replace("_", "-"))(module.benchmark)

if __name__ == "__main__":
    app()

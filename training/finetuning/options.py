"""Options of `finetune`; imports nothing heavy, so that `--help` is fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import typer

Kind = Literal["classification", "regression", "pair-classification", "ner", "qa", "multiple-choice"]
"""Types of task."""

Files = list[str]

_FORMS = "CSV, TSV, JSON lines, Parquet, a folder of them, or a Hub dataset (ORG/NAME). Repeatable."


@dataclass(frozen=True)
class FinetuneOptions:
    """Options of `finetune`."""

    kind: Annotated[Kind, typer.Argument(metavar="TASK", help="Type of task.")]
    base: Annotated[str, typer.Argument(help="Model to start from: a directory, ORG/NAME or ORG/NAME@REV.")]
    overrides: Annotated[
        list[str],
        typer.Argument(
            metavar="[KEY=VALUE]…", help="Any TrainingArguments, such as learning_rate=3e-5 or num_train_epochs=5."
        ),
    ] = field(default_factory=list)
    train: Annotated[Files, typer.Option(help=f"Training examples: {_FORMS}")] = field(default_factory=list)
    validation: Annotated[
        Files,
        typer.Option(help="Examples that select the epoch.", show_default="a tenth of the training examples"),
    ] = field(default_factory=list)
    test: Annotated[
        Files, typer.Option(help="Examples that only the final model is measured on, once.", show_default="none")
    ] = field(default_factory=list)
    out: Annotated[Path, typer.Option(help="Directory of the model. A rerun of the same command continues.")] = Path(
        "finetuned"
    )
    text_column: Annotated[
        str | None,
        typer.Option(help="Column of the text, or of the first text of a pair.", show_default="found by its name"),
    ] = None
    text_pair_column: Annotated[str | None, typer.Option(help="Column of the second text of a pair.")] = None
    label_column: Annotated[
        str | None,
        typer.Option(help="Column of the label, score, entities or answer.", show_default="found by its name"),
    ] = None
    question_column: Annotated[str | None, typer.Option(help="Column of the question (qa, multiple-choice).")] = None
    context_column: Annotated[str | None, typer.Option(help="Column of the passage (qa).")] = None
    choice_column: Annotated[
        list[str], typer.Option(help="Column of a choice, in order (multiple-choice). Repeatable.")
    ] = field(default_factory=list)
    config_name: Annotated[str | None, typer.Option(help="Configuration of a Hub dataset.")] = None
    train_split: Annotated[str, typer.Option(help="Split of a Hub dataset for --train.")] = "train"
    validation_split: Annotated[str, typer.Option(help="Split of a Hub dataset for --validation.")] = "validation"
    test_split: Annotated[str, typer.Option(help="Split of a Hub dataset for --test.")] = "test"
    tokenizer: Annotated[str | None, typer.Option(help="Tokenizer, if the base has none.")] = None
    max_length: Annotated[
        int | None,
        typer.Option(help="Maximum tokens of an input; the rest is truncated.", min=8, show_default="the model's"),
    ] = None
    tokens_per_batch: Annotated[
        int | None,
        typer.Option(
            help="Maximum tokens computed at once; does not change the result.",
            min=1,
            show_default="16,384 on a GPU, 4,096 on a CPU",
        ),
    ] = None
    seed: Annotated[
        int, typer.Option(help="First random seed, also of the held-out examples.", min=0, max=2**31 - 1)
    ] = 42
    seeds: Annotated[int, typer.Option(help="Number of trainings; the best on validation is kept.", min=1)] = 1
    patience: Annotated[
        int, typer.Option(help="Stop after this many epochs without a better validation score; 0 for never.", min=0)
    ] = 2
    class_weights: Annotated[
        Literal["auto", "balanced", "none"],
        typer.Option(help="Weigh rare labels more; auto does so if a label is five times as frequent as another."),
    ] = "auto"
    layer_decay: Annotated[
        float, typer.Option(help="Learning rate of each layer relative to the next one.", min=0.1, max=1.0)
    ] = 1.0
    lora: Annotated[bool, typer.Option("--lora", help="Train low-rank adapters (peft) and merge them.")] = False
    lora_rank: Annotated[int, typer.Option(help="Rank of the adapters.", min=1)] = 16

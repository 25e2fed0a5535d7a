"""What a quickstart shows."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .data import Question, Texts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from llm_jp_modernbert.modeling.modeling_llm_jp_modernbert import LlmJpModernBertForMaskedLM
    from llm_jp_modernbert.tokenization import LlmJpTokenizer
    from llm_jp_modernbert.training.data.corpus import TokenizedCorpus
    from llm_jp_modernbert.training.data.packing import PackedRows
    from llm_jp_modernbert.training.data.validation import MaskedAccuracy

    from .training import Stage, StageResult

_BLOCKS = "▁▂▃▄▅▆▇█"
_JAPANESE = re.compile("[ぁ-ゖァ-ヺ一-龯]")
_STEPS = 6


def heading(console: Console, number: int, title: str) -> None:
    """The line that begins a step."""
    console.print(f"\n[bold cyan]{number}/{_STEPS}[/] [bold]{title}[/]", highlight=False)


def texts(console: Console, found: Texts) -> None:
    """What is trained on and what is held out."""
    part = "" if found.complete else ", the first part of each file: more than there is time to train on is not read"
    _say(console, f"{found.origin}{part}")
    _say(
        console,
        f"{len(found.train):,} documents with {found.characters:,} characters to train on; {len(found.held_out):,} "
        "are held out, which the model never sees",
    )


def tokenized(
    console: Console, documents: Sequence[str], tokenizer: PreTrainedTokenizerBase, name: str
) -> TokenizedCorpus:
    """Tokenises."""
    from llm_jp_modernbert.training.data.corpus import from_documents
    from llm_jp_modernbert.training.data.encoding import Encoder

    encoder = Encoder(tokenizer)
    with console.status(f"tokenising the {name}"):
        return from_documents(encoder.encode(documents))


def tokenizer(
    console: Console,
    made: PreTrainedTokenizerBase,
    given: bool,
    texts: Texts,
    train: TokenizedCorpus,
    held_out: TokenizedCorpus,
) -> None:
    """The vocabulary, and what it makes of the texts."""
    _say(
        console,
        f"{'the given vocabulary' if given else 'trained on these texts'}: {len(made):,} tokens, "
        f"{texts.characters / len(train.ids):.2f} characters per token",
    )
    _say(console, f"{len(train.ids):,} tokens to train on, {len(held_out.ids):,} to measure with")
    lines = [line.strip() for text in texts.held_out for line in text.splitlines()]
    # Not a line of code or a rule, where there is another.
    sentence = max(lines[:200], key=lambda line: len(_JAPANESE.findall(line[:30])))[:30]
    pieces = made.convert_ids_to_tokens(made(sentence, add_special_tokens=False)["input_ids"])
    _say(console, "for example: " + "|".join(pieces))


def model(console: Console, made: PreTrainedModel, rows: Mapping[int, PackedRows]) -> None:
    """The size of the model, and how full its rows are."""
    config = made.config
    _say(
        console,
        f"{made.num_parameters():,} parameters: {config.num_hidden_layers} layers, hidden size {config.hidden_size}, "
        f"on {made.device.type}",
    )
    for length, packed in rows.items():
        _say(
            console,
            f"documents packed into {len(packed):,} rows of {length:,} tokens, {packed.efficiency:.1%} full; "
            "none sees another",
        )


def train(
    console: Console,
    made: LlmJpModernBertForMaskedLM,
    tokenizer: LlmJpTokenizer,
    corpus: TokenizedCorpus,
    stage: Stage,
    number: int,
    seed: int,
) -> StageResult:
    """Trains, with a bar."""
    from llm_jp_modernbert.training.callbacks import ProgressCallback

    from .training import train_stage

    limit = "" if stage.seconds is None else f", or {stage.seconds:.0f} seconds if that is sooner"
    _say(console, f"{stage.steps:,} steps of {stage.rows_per_step} × {stage.sequence_length} tokens{limit}")
    return train_stage(
        made,
        tokenizer,
        corpus,
        stage,
        number,
        seed,
        lambda trainer: ProgressCallback(console, "training", trainer.schedule.progress, lambda: trainer.totals),
    )


def trained(console: Console, result: StageResult) -> None:
    """How far training came, and the loss over the steps as a line of blocks."""
    _say(
        console,
        f"{result.steps:,} steps, {result.tokens:,} tokens ({result.epochs:.1f} rounds over the text) in "
        f"{result.seconds:.0f} seconds",
    )
    values = [value for _, value in result.losses]
    if len(values) < 2:
        return
    width = min(40, len(values))
    means = [_mean(values[i * len(values) // width : (i + 1) * len(values) // width]) for i in range(width)]
    low, high = min(means), max(means)
    line = "".join(_BLOCKS[round((mean - low) / (high - low or 1) * (len(_BLOCKS) - 1))] for mean in means)
    _say(console, f"training loss {means[0]:.2f} [green]{line}[/] {means[-1]:.2f}")


def accuracy(
    console: Console,
    measured: Mapping[str, Mapping[int, MaskedAccuracy]],
    baseline: float,
    most_frequent: str,
    masked_tokens: int,
) -> None:
    """Masked accuracy on the held-out text, and what is reached without a model."""
    lengths = list(next(iter(measured.values())))
    table = Table(title=f"Masked accuracy on held-out text ({masked_tokens:,} fixed masks)", title_justify="left")
    table.add_column("")
    for length in lengths:
        table.add_column(f"reading {length:,} tokens", justify="right")
    table.add_row(f"always {most_frequent!r} (unigram baseline)", *[f"{baseline:.1%}"] * len(lengths), style="dim")
    for when, by_length in measured.items():
        table.add_row(when, *(f"{by_length[length].accuracy:.1%}" for length in lengths))
    console.print()
    console.print(table)
    if max(result.accuracy for result in by_length.values()) < 1.5 * baseline:
        _say(
            console,
            "[yellow]Hardly more than the baseline: training was too short for this vocabulary and machine.[/] "
            "Give it more time, such as --minutes 20.",
        )


def questions(console: Console, marked: Sequence[Mapping[str, Any]], loaded_as: str) -> None:
    """The five questions and the answers."""
    _say(console, f"saved, and loaded in a new process as {loaded_as}, without this package")
    table = Table(box=None)
    for column in ("", "question", "candidates", "right"):
        table.add_column(column, overflow="fold")
    for question in marked:
        first, *others = question["candidates"][:3]
        found = Text(f"{first['text']} {first['probability']:.0%}", style="green" if question["right"] else "yellow")
        for other in others:
            found.append(f"  {other['text']} {other['probability']:.0%}", style="dim")
        table.add_row(
            "✓" if question["right"] else "·", Text(question["text"]), found, Text("、".join(question["answers"]))
        )
    console.print(table)
    right = sum(question["right"] for question in marked)
    _say(console, f"{right} of {len(marked)} right. Neither these sentences nor the answers were trained on.")


def farewell(console: Console, out: Path, seconds: float, asked: Sequence[Question]) -> None:
    """What was made, and what to do with it."""
    example = asked[0].text if asked else "今日は[MASK]です。"
    console.print(f"\n[bold green]Done[/] in {seconds / 60:.1f} minutes. Written to {out}:", highlight=False)
    _say(console, "config.json, model.safetensors, tokenizer.json: the model, for AutoModelForMaskedLM anywhere")
    _say(console, "report.json: settings, losses and measurements")
    console.print("Next:", highlight=False)
    console.print(
        Text(f"  llm-jp-modernbert fill-mask {shlex.quote(str(out))} {shlex.quote(example)}", style="bold"),
        soft_wrap=True,
    )


def _say(console: Console, line: str) -> None:
    console.print(f"  {line}", highlight=False, soft_wrap=True)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

"""The speed run: training time until a fixed held-out loss, and the board of its records.

Fixed are the data, the tokenizer, the held-out text and its masks, the target, and the machine of a board; everything
else may change. A row of the board is one commit with one change. Its mean loss over the seeds must reach the target.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import read_json, write_whole

from .measure import environment, write_json
from .models import DATA_VARIABLE

TARGET = 6.0
"""Held-out loss in nats per masked token."""

BOARD = Path(__file__).with_name("results") / "speedrun.json"
PAGE = Path(__file__).with_name("speedrun.md")

_BEGIN, _END = "<!-- measured: python -m benchmarks speedrun --row -->", "<!-- end of measurements -->"
_VOCABULARY = 4096
_TRAIN, _HELD_OUT = "train-00.jsonl.gz", "validation.jsonl.gz"


@dataclass(frozen=True)
class Row:
    """A row of the board.

    Attributes:
        change: the single change since the row before.
        commit: short hash of the commit that was measured.
        seconds: time of each seed's whole run: reading, initialization, training and the evaluation at the end.
        losses: held-out loss of each seed at the end.
        tokens: training tokens of a run.
        machine: name, threads and instruction sets of the machine.
    """

    change: str
    commit: str
    seconds: list[float]
    losses: list[float]
    tokens: int
    machine: str


def speedrun(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Keys of the recipe to change, for trials.", metavar="[KEY=VALUE]")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of runs with different seeds.", min=1)] = 3,
    row: Annotated[
        str | None, typer.Option(help="Add a row to the board; the text names its change.", metavar="CHANGE")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with corpus/aozora/.")] = None,
) -> None:
    """Measure the training time of the recipe `speedrun` and whether it reaches the target."""
    if row is not None and overrides:
        raise UsageError("A row measures the recipe as it is committed. Change the recipe instead of giving keys.")
    corpus = _corpus(data)
    console = Console()
    with TemporaryDirectory() as folder:
        tokenizer = str(_train_tokenizer(corpus, Path(folder)))
        runs = [_run(corpus, tokenizer, seed, overrides or []) for seed in range(seeds)]
    table = Table("seed", "seconds", "held-out loss", "tokens", box=None)
    for seed, (seconds, loss, tokens) in enumerate(runs):
        table.add_row(str(seed), f"{seconds:.1f}", f"{loss:.3f}", f"{tokens:,}")
    console.print(table)
    mean = statistics.mean(loss for _, loss, _ in runs)
    reached = mean <= TARGET
    seconds = statistics.mean(run[0] for run in runs)
    console.print(f"{seconds:.1f} s, loss {mean:.3f}: {'reaches' if reached else 'misses'} the target of {TARGET}.")
    if row is not None:
        if not reached:
            raise UsageError(f"The mean loss {mean:.3f} misses the target of {TARGET}: no row is added.")
        add_row(Row(row, _commit(), [run[0] for run in runs], [run[1] for run in runs], runs[0][2], _machine()))


def _corpus(folder: Path | None) -> Path:
    """The folder with the texts."""
    given = folder or os.environ.get(DATA_VARIABLE)
    if not given:
        raise UsageError(f"The speed run needs --data or {DATA_VARIABLE}.")
    corpus = Path(given) / "corpus" / "aozora"
    if not all((corpus / name).is_file() for name in (_TRAIN, _HELD_OUT)):
        raise UsageError(
            f"{given} lacks corpus/aozora/ with {_TRAIN} and {_HELD_OUT}. Choose another folder with --data."
        )
    return corpus


def _train_tokenizer(corpus: Path, folder: Path) -> Path:
    """Train the tokenizer of all runs on the training text, into the folder."""
    from llm_jp_modernbert.tokenization import train_stand_in
    from llm_jp_modernbert.training.data.readers import read_documents

    texts = (document.text for document in read_documents(str(corpus / _TRAIN)))
    path = folder / "tokenizer"
    train_stand_in(texts, _VOCABULARY).save_pretrained(path)
    return path


def _run(corpus: Path, tokenizer: str, seed: int, overrides: list[str]) -> tuple[float, float, int]:
    """Seconds, held-out loss and tokens of one run."""
    from llm_jp_modernbert.training.pretrain import pretrain
    from llm_jp_modernbert.training.recipe.loading import load_recipe

    with TemporaryDirectory() as folder:
        fixed = {
            "train_data": corpus / _TRAIN,
            "validation_data": corpus / _HELD_OUT,
            "tokenizer": tokenizer,
            "output_dir": Path(folder) / "run",
            "seed": seed,
        }
        recipe = load_recipe("speedrun", [*overrides, *(f"{key}={value}" for key, value in fixed.items())])
        start = time.perf_counter()
        trainer = pretrain(recipe)
        seconds = time.perf_counter() - start
        if trainer.stopping:
            raise UsageError("The run was interrupted before its end.")
        evaluated: list[float] = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
        return seconds, evaluated[-1], int(trainer.totals.tokens)


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()

    if git("status", "--porcelain", "--untracked-files=no"):
        raise UsageError("A row is of a commit, and there are uncommitted changes. Commit them first.")
    return git("rev-parse", "--short", "HEAD")


def _machine() -> str:
    machine = environment()["machine"]
    return f"{machine['name']}, {machine['threads']} threads, {', '.join(machine['instruction sets'])}"


def add_row(row: Row, board: Path = BOARD, page: Path = PAGE) -> None:
    """Adds a row to the file of results, and writes the board into the page."""
    rows: list[dict[str, Any]] = read_json(board) if board.is_file() else []
    rows.append(asdict(row))
    write_json(board, rows)
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    after = rest.partition(_END)[2]
    write_whole(page, f"{before}{_BEGIN}\n\n{board_of([Row(**values) for values in rows])}\n\n{_END}{after}")


def board_of(rows: list[Row]) -> str:
    """The board as Markdown."""
    lines = [
        "| row | seconds | of row 1 | held-out loss | tokens | change | commit |",
        "|---:|---:|---:|---:|---:|---|---|",
    ]
    first = statistics.mean(rows[0].seconds) if rows else 1.0
    for number, row in enumerate(rows, start=1):
        seconds, loss = statistics.mean(row.seconds), statistics.mean(row.losses)
        spread = max(row.seconds) - min(row.seconds)
        lines.append(
            f"| {number} | {seconds:.1f} ± {spread / 2:.1f} | {seconds / first:.2f} | {loss:.3f} | {row.tokens:,} "
            f"| {row.change} | {row.commit} |"
        )
    machines = "; ".join(dict.fromkeys(row.machine for row in rows))
    return "\n".join([*lines, "", f"Machine: {machines}."])

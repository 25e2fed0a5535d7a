"""Trains a small model from raw text with the `nano` recipes, and fills masks with plain transformers.

Texts, tokenizer, training with a short and a long context, masked accuracy on held-out text, a saved `modernbert`
checkpoint, and five masks filled in a process that does not import this package.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from llm_jp_modernbert.core.clean_process import reload_alone
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import atomic_directory

from . import screen
from .data import (
    JAPANESE,
    Question,
    Texts,
    answerable,
    embedded_questions,
    embedded_texts,
    held_out_questions,
    own_texts,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llm_jp_modernbert.tokenization import LlmJpTokenizer
    from llm_jp_modernbert.training.data.corpus import TokenizedCorpus
    from llm_jp_modernbert.training.data.validation import MaskedAccuracy
    from llm_jp_modernbert.training.recipe.arguments import PretrainingArguments
    from llm_jp_modernbert.training.trainer import PretrainingTrainer

REPORT = "report.json"
"""The file next to the model with settings, losses and measurements."""

SHORT, LONG = 128, 1024
"""The two context lengths, in tokens."""

# Small vocabularies are learned faster than larger ones with fewer tokens per text.
_VOCABULARY = 2000
# Above this size the vocabulary takes most of the time, so the encoder must be smaller.
_LARGE_VOCABULARY = 20_000
_WIDER_THAN_NANO = {"hidden_size": 192, "intermediate_size": 288, "num_hidden_layers": 6, "num_attention_heads": 6}
# More epochs would only memorise the text.
_MAX_EPOCHS = 40
# Fraction of the training time for the long context.
_LONG_SHARE = 0.2
# Characters to read per minute of training, more than a CPU can train on.
_CHARACTERS_PER_MINUTE = 2_000_000
_MAX_HELD_OUT_TOKENS = 12_000


@dataclass(frozen=True)
class QuickstartOptions:
    """Options of the quickstart."""

    files: Annotated[list[str], typer.Argument(help="Further files for --data, so that --data corpus/*.gz works.")] = (
        field(default_factory=list)
    )
    data: Annotated[
        list[str],
        typer.Option(
            help="Your own texts: .jsonl, .txt (blank lines separate documents), either with .gz, or .parquet; a "
            "directory of them, or a glob pattern in quotes. Repeatable. Default: a small corpus in this package.",
            show_default=False,
        ),
    ] = field(default_factory=list)
    text_column: Annotated[str, typer.Option(help="JSON key or Parquet column that holds the text.")] = "text"
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="SentencePiece .model file of llm-jp-tokenizer, directory or repository. By default, a small "
            "vocabulary is trained on the texts."
        ),
    ] = None
    out: Annotated[Path, typer.Option(help="Directory to write the model to.")] = Path("quickstart-model")
    force: Annotated[bool, typer.Option("--force", help="Replace the model of an earlier quickstart.")] = False
    minutes: Annotated[float, typer.Option(help="Maximum training time in minutes.", min=0.01)] = 2.5
    steps: Annotated[
        int | None,
        typer.Option(
            help="Number of steps with the short context, instead of a time limit; a quarter as many follow with the "
            "long context. Gives the same model on every run.",
            min=1,
        ),
    ] = None
    seed: Annotated[int, typer.Option(help="Seed of weights, data order and masks.", min=0)] = 0

    @property
    def patterns(self) -> list[str]:
        """Paths and patterns of the user's own texts."""
        return [*self.data, *self.files]


@dataclass(frozen=True)
class _Stage:
    """A training stage.

    Attributes:
        name: name on the screen and in the report.
        recipe: packaged recipe.
        length: context length in tokens.
        share: fraction of the training time.
        final_learning_rate: learning rate at the end, as a fraction of its maximum.
    """

    name: str
    recipe: str
    length: int
    share: float
    final_learning_rate: float


_STAGES = (
    _Stage("short context", "nano", SHORT, 1 - _LONG_SHARE, 0.1),
    _Stage("long context", "nano-stage2", LONG, _LONG_SHARE, 0.0),
)


def run_quickstart(options: QuickstartOptions, console: Console) -> Path:
    """Trains, measures and saves a model.

    Returns:
        The directory with the model and `report.json`.

    Raises:
        ValueError: data, tokenizer or output directory are unusable. The message is one line.

    Example:
        >>> run_quickstart(QuickstartOptions(out=Path("model"), minutes=1), Console())
    """
    began = time.perf_counter()
    _check_out(options.out, options.force)
    texts = _read_texts(options, console)
    # After the texts, so that mistakes in --data are reported without waiting for torch.
    with console.status("Loading torch and transformers"):
        from llm_jp_modernbert.core.terminal import quiet_libraries
        from llm_jp_modernbert.tokenization import match_length

        quiet_libraries()
    with TemporaryDirectory(prefix="quickstart-") as folder:
        work = Path(folder)
        tokenizer = _make_tokenizer(options, texts, work, console)
        report, trainer = _train(options, texts, tokenizer, work, console)
        screen.heading(console, 6, "Plain transformers fills five masks")
        questions = answerable(embedded_questions(), tokenizer)
        if options.patterns:
            questions = held_out_questions(texts.held_out, tokenizer, texts.train) or questions
        with atomic_directory(options.out, replace=True) as out:
            trainer.model.cpu().save_pretrained(out, format="plain")
            match_length(tokenizer, trainer.model.config)
            tokenizer.save_pretrained(out)
            shutil.copy(Path(trainer.recipe.output_dir) / "training.json", out)
            reloaded = reload_alone(out, [question.text for question in questions])
            report["questions"] = _graded(questions, reloaded["answers"])
            report["seconds"] = time.perf_counter() - began
            (out / REPORT).write_text(json.dumps(report, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    screen.answers(console, report["questions"], f"{reloaded['module'].split('.')[0]}.{reloaded['class']}")
    example = questions[0].text if questions else "今日は[MASK]です。"
    screen.end(console, options.out, report["seconds"], example)
    return options.out


def _check_out(out: Path, force: bool) -> None:
    """Checks the output directory before minutes of work."""
    path = Path(os.path.expanduser(out))
    if path.is_file():
        raise UsageError(f"--out {out} is a file. Name a directory for the model.")
    if path.is_dir() and any(path.iterdir()):
        if not (path / REPORT).is_file():
            raise UsageError(f"--out {out} is not empty. Name a new directory.")
        if not force:
            raise UsageError(
                f"--out {out} already holds a model of the quickstart. Name another directory, or add --force."
            )
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UsageError(f"--out {out}: {parent} is not writable. Name a directory elsewhere.")


def _read_texts(options: QuickstartOptions, console: Console) -> Texts:
    screen.heading(console, 1, "Texts")
    max_characters = round(options.minutes * _CHARACTERS_PER_MINUTE)
    texts = own_texts(options.patterns, options.text_column, max_characters) if options.patterns else embedded_texts()
    screen.line(console, f"Source: {texts.origin}")
    if not texts.complete:
        screen.line(console, "Only the first part of each file is read; training on more would exceed --minutes.")
    screen.line(console, f"Training: {len(texts.train):,} documents, {texts.characters:,} characters")
    screen.line(console, f"Held out: {len(texts.held_out):,} documents, never trained on, to measure the model")
    return texts


def _make_tokenizer(options: QuickstartOptions, texts: Texts, work: Path, console: Console) -> LlmJpTokenizer:
    """Loads or trains the tokenizer, and saves it with the texts for the recipes."""
    from llm_jp_modernbert.tokenization import build_tokenizer, train_stand_in

    screen.heading(console, 2, "Tokenizer")
    if options.tokenizer is not None:
        tokenizer = build_tokenizer(options.tokenizer)
    else:
        with warnings.catch_warnings():
            # Warns if few texts yield a smaller vocabulary, whose size is printed anyway.
            warnings.simplefilter("ignore")
            tokenizer = train_stand_in(texts.train, _VOCABULARY)
    tokenizer.save_pretrained(work / "tokenizer")
    for name, documents in (("train", texts.train), ("held-out", texts.held_out)):
        (work / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    origin = "trained on these texts" if options.tokenizer is None else options.tokenizer
    screen.line(console, f"Vocabulary: {len(tokenizer):,} tokens ({origin})")
    lines = [line.strip()[:30] for text in texts.held_out for line in text.splitlines()][:200]
    example = max(lines, key=lambda line: len(JAPANESE.findall(line)))
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(example, add_special_tokens=False)["input_ids"])
    screen.line(console, f"Example: {' '.join(tokens).strip('▁ ')}")
    return tokenizer


def _train(
    options: QuickstartOptions, texts: Texts, tokenizer: LlmJpTokenizer, work: Path, console: Console
) -> tuple[dict[str, Any], PretrainingTrainer]:
    """Trains both stages and measures the model before and after each.

    Returns:
        The report, and the trainer of the last stage.
    """
    from llm_jp_modernbert.training.assembly import make_model, make_validation
    from llm_jp_modernbert.training.data.corpus import from_documents
    from llm_jp_modernbert.training.data.encoding import Encoder
    from llm_jp_modernbert.training.data.validation import unigram_baseline
    from llm_jp_modernbert.training.pretrain import pretrain
    from llm_jp_modernbert.training.recipe.arguments import SPECIAL_TOKENS_PER_PIECE

    train = from_documents(Encoder(tokenizer).encode(texts.train))
    recipes = [_recipe(options, stage, number, tokenizer, train, work) for number, stage in enumerate(_STAGES)]
    validation = make_validation(recipes[0], tokenizer)
    assert validation is not None
    baseline, most_frequent = unigram_baseline(train.ids, validation.targets)

    screen.heading(console, 3, "Model")
    model = make_model(recipes[0], tokenizer)
    screen.line(
        console,
        f"ModernBERT with {model.num_parameters():,} parameters: {model.config.num_hidden_layers} layers, hidden "
        f"size {model.config.hidden_size}, on {recipes[0].device.type}",
    )

    def measure(model: PreTrainedModel) -> dict[int, MaskedAccuracy]:
        return {stage.length: validation.measure(model, stage.length) for stage in _STAGES}

    def measure_untrained(model: PreTrainedModel, _: Any) -> dict[str, float]:
        measured["untrained"] = measure(model)
        return {}

    measured: dict[str, dict[int, MaskedAccuracy]] = {}
    stages, efficiency = [], {}
    for number, (stage, recipe) in enumerate(zip(_STAGES, recipes, strict=True)):
        screen.heading(console, 4 + number, f"Training with a {stage.name} ({stage.length:,} tokens)")
        seconds = None if recipe.max_minutes is None else 60 * recipe.max_minutes
        limit = "" if seconds is None else f"; stops after {seconds:.0f} seconds"
        size = f"{recipe.rows_per_step} × {stage.length:,} tokens"
        screen.line(console, f"Recipe {stage.recipe}: {recipe.max_steps:,} steps of {size}{limit}")
        trainer = pretrain(recipe, {} if measured else {"untrained": measure_untrained})
        if trainer.stop.received is not None:
            raise SystemExit(f"{trainer.stop.received}: stopped, nothing was written.")
        measured[f"after {stage.name}"] = measure(trainer.model)
        totals = trainer.totals
        # Counts tokens of the text only, without CLS and SEP.
        epochs = (totals.tokens - SPECIAL_TOKENS_PER_PIECE * totals.pieces) / len(train.ids)
        losses = [(int(entry["step"]), float(entry["loss"])) for entry in trainer.state.log_history if "loss" in entry]
        efficiency[stage.length] = totals.packing_efficiency
        screen.line(
            console,
            f"{trainer.state.global_step:,} of {recipe.max_steps:,} steps, {totals.tokens:,.0f} tokens "
            f"({epochs:.1f} epochs) in {totals.seconds:.0f} seconds; rows {totals.packing_efficiency:.1%} full",
        )
        screen.losses(console, [loss for _, loss in losses])
        stages.append(
            {
                "steps": trainer.state.global_step,
                "seconds": totals.seconds,
                "tokens": int(totals.tokens),
                "epochs": epochs,
                "losses": losses,
                "settings": {
                    "name": stage.name,
                    "sequence_length": stage.length,
                    "rows_per_step": recipe.rows_per_step,
                    "steps": recipe.max_steps,
                    "learning_rate": recipe.learning_rate,
                    "final_learning_rate": stage.final_learning_rate,
                    "seconds": seconds,
                },
            }
        )
    progress = stages[0]["steps"] / recipes[0].max_steps
    screen.accuracy(console, measured, baseline, str(tokenizer.decode([most_frequent])), progress)
    report = {
        "made_by": "llm-jp-modernbert quickstart",
        "seed": options.seed,
        "texts": {
            "origin": texts.origin,
            "complete": texts.complete,
            "documents": len(train),
            "characters": texts.characters,
            "tokens": len(train.ids),
            "held_out_documents": len(validation.corpus),
            "held_out_tokens": len(validation.corpus.ids),
        },
        "vocabulary": len(tokenizer),
        "parameters": trainer.model.num_parameters(),
        "packing_efficiency": efficiency,
        "stages": stages,
        "masked_accuracy": {
            name: {length: asdict(result) for length, result in results.items()} for name, results in measured.items()
        },
        "unigram_baseline": {"accuracy": baseline, "token_id": most_frequent},
    }
    return report, trainer


def _recipe(
    options: QuickstartOptions,
    stage: _Stage,
    number: int,
    tokenizer: LlmJpTokenizer,
    train: TokenizedCorpus,
    work: Path,
) -> PretrainingArguments:
    """The recipe of a stage."""
    from llm_jp_modernbert.training.recipe.arguments import SPECIAL_TOKENS_PER_PIECE
    from llm_jp_modernbert.training.recipe.loading import load_recipe

    large = len(tokenizer) >= _LARGE_VOCABULARY
    # Each token costs more with a large vocabulary; smaller batches leave time for more steps.
    tokens_per_batch = 1024 if large else 2048
    if options.steps is not None:
        max_steps = math.ceil(options.steps * stage.share / (1 - _LONG_SHARE))
    else:
        lengths = train.offsets[1:] - train.offsets[:-1]
        pieces = -(-lengths // (stage.length - SPECIAL_TOKENS_PER_PIECE))
        tokens = len(train.ids) + SPECIAL_TOKENS_PER_PIECE * int(pieces.sum())
        max_steps = math.ceil(_MAX_EPOCHS * stage.share * tokens / tokens_per_batch)
    keys: dict[str, Any] = {
        "stage": stage.name.split()[0],
        "output_dir": str(work / stage.recipe),
        "tokenizer": str(work / "tokenizer"),
        "train_data": str(work / "train.jsonl"),
        "validation_data": str(work / "held-out.jsonl"),
        "max_validation_tokens": _MAX_HELD_OUT_TOKENS,
        "eval_steps": None,
        "sequence_length": stage.length,
        "tokens_per_batch": tokens_per_batch,
        "max_steps": max_steps,
        "max_minutes": None if options.steps is not None else options.minutes * stage.share,
        # At these few steps better than the warmup-stable-decay of the recipes.
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": stage.final_learning_rate},
        "warmup_steps": 0.1,
        "seed": len(_STAGES) * options.seed + number,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": max(1, min(5, max_steps // 20)),
    }
    if number:
        # The slower rotation of nano-stage2 is for 8192 tokens; 1024 are learned better without it.
        keys |= {"init_from": str(work / _STAGES[number - 1].recipe), "model": None}
    else:
        shape = {**({} if large else _WIDER_THAN_NANO), "max_position_embeddings": LONG}
        keys |= {"probe_steps": [0], **{f"model.{name}": value for name, value in shape.items()}}
    return load_recipe(stage.recipe, [f"{key}={json.dumps(value)}" for key, value in keys.items()])


def _graded(questions: Sequence[Question], answers: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The questions with the model's answers, in the form of the report."""
    return [
        {
            "text": question.text,
            "answers": list(question.answers),
            "candidates": [
                {"text": candidate["token_str"].strip(), "probability": candidate["score"]} for candidate in candidates
            ],
            "right": candidates[0]["token_str"].strip() in question.answers,
        }
        for question, candidates in zip(questions, answers, strict=True)
    ]

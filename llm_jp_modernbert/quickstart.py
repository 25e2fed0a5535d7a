"""From raw text to a trained, evaluated model that plain transformers loads: the whole line, in a few minutes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from .errors import UsageError
from .fill_mask import readable
from .modeling.configuration_llm_jp_modernbert import LlmJpModernBertConfig
from .modeling.modeling_llm_jp_modernbert import LlmJpModernBertForMaskedLM
from .quickstart_data import (
    Question,
    Texts,
    answerable,
    embedded_questions,
    embedded_texts,
    held_out_questions,
    own_texts,
)
from .tokenization import build_tokenizer, train_stand_in
from .training.budget import seconds_per_step
from .training.callbacks import ProgressCallback
from .training.masking import Masking
from .training.packing import pack
from .training.stage import Stage, StageResult, run_stage
from .training.tokenize_corpus import TokenizedCorpus, tokenize
from .training.validation import MaskedAccuracy, MaskedValidation, unigram_baseline

if TYPE_CHECKING:
    from .tokenization import LlmJpTokenizer

SHORT_CONTEXT, LONG_CONTEXT = 128, 1024
# Of the training time, the share that is spent at the long context.
LONG_SHARE = 0.15
# Beyond this the text of a user's files is not read: more would not be trained on in the time.
MOST_CHARACTERS = 4_000_000
_CANDIDATES = 5


@dataclass(frozen=True)
class Settings:
    """What depends on whether the embedded corpus or the user's own text is trained on.

    Attributes:
        vocabulary: tokens of a tokenizer that is trained.
        hidden_size: of the model.
        layers: of the model.
        steps: optimizer steps of both stages, as far as the time allows.
        learning_rate: peak of the first stage; the second starts at a quarter of it.
    """

    vocabulary: int
    hidden_size: int
    layers: int
    steps: int
    learning_rate: float


EMBEDDED = Settings(vocabulary=2000, hidden_size=192, layers=6, steps=300, learning_rate=3e-3)
OWN = Settings(vocabulary=8000, hidden_size=192, layers=6, steps=2000, learning_rate=2e-3)


def run_quickstart(
    data: Sequence[str],
    tokenizer_source: str | None,
    out: Path,
    text_column: str = "text",
    minutes: float = 2.5,
    steps: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Run the quickstart and show it in the terminal.

    Args:
        data: files, folders and patterns of the user's; none for the embedded corpus.
        tokenizer_source: a llm-jp-tokenizer in any form; by default a small tokenizer is trained on the text.
        out: the directory to make.
        text_column: the JSON key or Parquet column that holds the text.
        minutes: the most time that training may take. On a machine too slow for it, fewer steps are taken.
        steps: optimizer steps of both stages together, where fewer are wanted.
        seed: seed of weights, order and masks.

    Returns:
        What `report.json` holds.

    Raises:
        UsageError: the directory is not empty, or the text too short.
        SourceError: a file cannot be read.
    """
    began = time.perf_counter()
    console = Console()
    _check_options(out, minutes, steps, seed)
    settings = OWN if data else EMBEDDED
    if steps is not None:
        settings = replace(settings, steps=steps)

    console.rule("[bold]1 · text and tokenizer", align="left")
    texts = own_texts(data, text_column, MOST_CHARACTERS) if data else embedded_texts()
    tokenizer = (
        build_tokenizer(tokenizer_source) if tokenizer_source else train_stand_in(texts.train, settings.vocabulary)
    )
    corpus, held_out = tokenize(texts.train, tokenizer), tokenize(texts.held_out, tokenizer)
    _show_texts(console, texts, tokenizer, corpus, held_out)
    questions = _questions(texts, tokenizer, own=bool(data))

    console.rule("[bold]2 · training", align="left")
    torch.manual_seed(seed)
    model = _initial_model(settings, tokenizer, corpus)
    masking = Masking(tokenizer.mask_token_id, len(tokenizer), tokenizer.all_special_ids)
    validation = MaskedValidation(held_out, masking, tokenizer.cls_token_id, tokenizer.sep_token_id)
    baseline, most_frequent = unigram_baseline(corpus.ids, validation.targets)
    accuracy = {"before training": validation.measure(model, LONG_CONTEXT)}
    stages: list[StageResult] = []
    for stage in _stages(settings, model, corpus, masking, tokenizer, minutes):
        rows = pack(corpus, stage.sequence_length, tokenizer.cls_token_id, tokenizer.sep_token_id)
        progress = ProgressCallback(console, stage.name, stage.rows_per_step * stage.sequence_length)
        try:
            first_epoch = sum(int(np.ceil(done.epochs)) for done in stages)
            stages.append(run_stage(model, rows, masking, stage, seed, first_epoch, [progress]))
        finally:
            progress.close()
        accuracy[f"after {stage.name}"] = validation.measure(model, LONG_CONTEXT)

    console.rule("[bold]3 · masked accuracy on held-out text", align="left")
    _show_accuracy(console, accuracy, baseline, readable(tokenizer, most_frequent))

    console.rule("[bold]4 · saved, and reloaded with plain transformers", align="left")
    report: dict[str, Any] = {
        "data": {"origin": texts.origin, "characters": texts.characters, "tokens": len(corpus.ids)},
        "tokenizer": {"source": tokenizer_source or "trained on the text", "tokens": len(tokenizer)},
        "parameters": model.num_parameters(),
        "seed": seed,
        "unigram_baseline": baseline,
        "masked_accuracy": {name: asdict(result) for name, result in accuracy.items()},
        "stages": [result.as_dict() for result in stages],
    }
    answers = _save_and_reload(out, model, tokenizer, questions, report)
    _show_answers(console, questions, answers)
    seconds = time.perf_counter() - began
    console.print(f"\nDone in {seconds:.0f} s. The model, its tokenizer and report.json are in [bold]{out}[/].")
    console.print("Go on with:  " + _next_command(out, questions), soft_wrap=True, highlight=False, markup=False)
    return report


def _check_options(out: Path, minutes: float, steps: int | None, seed: int) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UsageError(f"--out {out} exists already. Name a new directory, or remove it.")
    if not minutes > 0:
        raise UsageError(f"--minutes {minutes}: training takes more than no time.")
    if steps is not None and steps < 2:
        raise UsageError(f"--steps {steps}: at least 2 are needed, one for each context length.")
    if seed < 0:
        raise UsageError(f"--seed {seed}: it must be 0 or more.")


def _initial_model(
    settings: Settings, tokenizer: LlmJpTokenizer, corpus: TokenizedCorpus
) -> LlmJpModernBertForMaskedLM:
    config = LlmJpModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.hidden_size * 3 // 2,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.hidden_size // 32,
        max_position_embeddings=LONG_CONTEXT,
    )
    model = LlmJpModernBertForMaskedLM(config)
    # To begin with the frequencies of the tokens spares the first steps, which would learn nothing else.
    counts = np.bincount(corpus.ids, minlength=len(tokenizer)) + 0.1
    with torch.no_grad():
        model.decoder.bias.copy_(torch.from_numpy(np.log(counts / counts.sum())))
    return model


def _stages(
    settings: Settings,
    model: LlmJpModernBertForMaskedLM,
    corpus: TokenizedCorpus,
    masking: Masking,
    tokenizer: LlmJpTokenizer,
    minutes: float,
) -> list[Stage]:
    """The short context and the long one, with as many steps as are wanted or fit the time."""
    planned = []
    for context, share, peak in (
        (SHORT_CONTEXT, 1 - LONG_SHARE, settings.learning_rate),
        (LONG_CONTEXT, LONG_SHARE, settings.learning_rate / 4),
    ):
        steps = max(1, round(settings.steps * share))
        stage = Stage(f"{context} tokens", context, 4096, steps, peak, final_learning_rate=0.1)
        rows = pack(corpus, context, tokenizer.cls_token_id, tokenizer.sep_token_id)
        fitting = int(60 * minutes * share / seconds_per_step(model, rows, masking, stage))
        planned.append(replace(stage, steps=max(1, min(steps, fitting))))
    return planned


def _questions(texts: Texts, tokenizer: LlmJpTokenizer, own: bool) -> list[Question]:
    """Held-out sentences of the user's text; where it has none that fit, and for the embedded corpus, its own."""
    questions = held_out_questions(texts.held_out, tokenizer) if own else []
    return questions or answerable(embedded_questions(), tokenizer)


def _save_and_reload(
    out: Path,
    model: LlmJpModernBertForMaskedLM,
    tokenizer: LlmJpTokenizer,
    questions: Sequence[Question],
    report: dict[str, Any],
) -> list[list[dict[str, Any]]]:
    """Write the directory aside, ask the questions of it, and give it its name only when all is well."""
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.{os.getpid()}.new")
    try:
        model.save_pretrained(aside, format="plain")
        tokenizer.save_pretrained(aside)
        answers = _answers_of_plain_transformers(aside, questions)
        report["questions"] = [
            {"text": question.text, "expected": list(question.answers), "candidates": [c["token_str"] for c in found]}
            for question, found in zip(questions, answers, strict=True)
        ]
        (aside / "report.json").write_text(json.dumps(report, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        if out.is_dir():
            out.rmdir()
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return answers


def _answers_of_plain_transformers(model: Path, questions: Sequence[Question]) -> list[list[dict[str, Any]]]:
    request = {"model": str(model), "texts": [question.text for question in questions], "top_k": _CANDIDATES}
    run = subprocess.run(
        [sys.executable, "-I", str(Path(__file__).with_name("plain_reload.py"))],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    if run.returncode:
        raise RuntimeError(f"plain transformers could not use the saved model:\n{run.stderr.strip()}")
    answers: list[list[dict[str, Any]]] = json.loads(run.stdout)["answers"]
    return answers


def _show_texts(
    console: Console, texts: Texts, tokenizer: LlmJpTokenizer, corpus: TokenizedCorpus, held_out: TokenizedCorpus
) -> None:
    part = "" if texts.complete else " (its beginning; the rest would not be trained on in the time)"
    console.print(f"  {texts.origin}{part}", highlight=False)
    console.print(
        f"  to train on: {len(corpus):,} documents, {texts.characters:,} characters, {len(corpus.ids):,} tokens"
    )
    console.print(f"  held out:    {len(held_out):,} documents, {len(held_out.ids):,} tokens")
    console.print(f"  tokenizer:   {len(tokenizer):,} tokens")


def _show_accuracy(console: Console, accuracy: dict[str, MaskedAccuracy], baseline: float, most_frequent: str) -> None:
    table = Table("", "right", "", "loss", box=None)
    masked = next(iter(accuracy.values())).masked_tokens
    table.add_row(f"always {most_frequent!r} (unigram baseline)", f"{baseline:6.1%}", _bar(baseline), "")
    for name, result in accuracy.items():
        table.add_row(name, f"{result.accuracy:6.1%}", _bar(result.accuracy), f"{result.loss:.2f}")
    console.print(table)
    console.print(f"  {masked:,} tokens masked, the same ones each time")


def _bar(share: float) -> str:
    return "█" * round(40 * share)


def _show_answers(
    console: Console, questions: Sequence[Question], answers: Sequence[Sequence[dict[str, Any]]]
) -> None:
    table = Table("", "question", "answers", "expected", box=None)
    for question, found in zip(questions, answers, strict=True):
        candidates = [candidate["token_str"].strip() for candidate in found]
        rank = next((place for place, text in enumerate(candidates, 1) if text in question.answers), None)
        mark = "[green]✓[/]" if rank == 1 else "[yellow]·[/]" if rank else "[red]✗[/]"
        table.add_row(mark, question.text.replace("[", r"\["), "、".join(candidates), "、".join(question.answers))
    console.print(table)
    console.print("  ✓ first answer  · among the first five  ✗ not found")


def _next_command(out: Path, questions: Sequence[Question]) -> str:
    text = questions[0].text if questions else "…[MASK]…"
    return f'llm-jp-modernbert fill-mask {out} "{text}"'

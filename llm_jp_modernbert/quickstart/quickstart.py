"""From raw text to a small trained model that plain transformers loads, in minutes.

Texts → tokenizer → packed rows → a short context → a long context → masked accuracy on held-out text → a saved
`modernbert` checkpoint → five masks filled by transformers alone.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from llm_jp_modernbert.core.clean_process import reload_alone
from llm_jp_modernbert.core.errors import UsageError

from . import data as corpus
from . import screen

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llm_jp_modernbert.modeling.modeling_llm_jp_modernbert import LlmJpModernBertForMaskedLM
    from llm_jp_modernbert.tokenization import LlmJpTokenizer
    from llm_jp_modernbert.training.data.corpus import TokenizedCorpus
    from llm_jp_modernbert.training.data.packing import PackedRows

    from .training import Stage

REPORT = "report.json"
"""The file beside the model that says how it was made."""

SHORT, LONG = 128, 1024
"""The two context lengths, in tokens."""

# A vocabulary of a few thousand tokens is learned sooner than one that splits better.
_STAND_IN_VOCABULARY = 2000
# More rounds over the same text would be learned by heart.
_MOST_EPOCHS = 40
_LARGE_VOCABULARY = 20_000
_WIDER_THAN_NANO = {
    "hidden_size": 192,
    "intermediate_size": 288,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
}
# Share of the time that goes to the long context.
_LONG_SHARE = 0.2
# Characters that are read per minute of training: more than a CPU can train on.
_CHARACTERS_PER_MINUTE = 2_000_000
_MOST_HELD_OUT_TOKENS = 12_000


@dataclass(frozen=True)
class QuickstartOptions:
    """What is to be made of what.

    Attributes:
        data: files, folders and patterns; none for the corpus that comes with the package.
        text_column: the JSON key or Parquet column that holds the text.
        tokenizer: what `build_tokenizer` takes; None trains a small one.
        out: directory to write to.
        force: replace what an earlier quickstart wrote there.
        minutes: time for training at most.
        steps: steps at the short context, however long they take; a quarter as many follow at the long one. The same
            number gives the same model wherever torch computes alike.
        seed: seed of weights, order and masks.
    """

    data: tuple[str, ...] = ()
    text_column: str = "text"
    tokenizer: str | None = None
    out: Path = Path("quickstart-model")
    force: bool = False
    minutes: float = 2.5
    steps: int | None = None
    seed: int = 0


def run_quickstart(options: QuickstartOptions, console: Console) -> Path:
    """Makes a model.

    Args:
        options: see there.
        console: where progress and results are shown.

    Returns:
        The directory of the model, which holds `report.json` as well.

    Raises:
        ValueError: whatever is wrong with the data, the tokenizer or the directory, in one line.
    """
    began = time.perf_counter()
    _check_out(options.out, options.force)
    screen.heading(console, 1, "Texts")
    texts = (
        corpus.own_texts(options.data, options.text_column, round(options.minutes * _CHARACTERS_PER_MINUTE))
        if options.data
        else corpus.embedded_texts()
    )
    screen.texts(console, texts)

    screen.heading(console, 2, "Tokenizer")
    # Now, so that a mistake in the data is told without waiting for torch.
    _import_heavy(console)
    import torch
    from transformers import set_seed

    from llm_jp_modernbert.training.data.masking import Masking
    from llm_jp_modernbert.training.data.packing import pack
    from llm_jp_modernbert.training.data.validation import MaskedValidation, unigram_baseline

    tokenizer = _tokenizer(options.tokenizer, texts.train)
    train = screen.tokenized(console, texts.train, tokenizer, "training text")
    held_out = _beginning(screen.tokenized(console, texts.held_out, tokenizer, "held-out text"), _MOST_HELD_OUT_TOKENS)
    screen.tokenizer(console, tokenizer, options.tokenizer is not None, texts, train, held_out)

    screen.heading(console, 3, "Model")
    set_seed(options.seed)
    model = _new_model(tokenizer, train)
    if torch.cuda.is_available():
        model.to("cuda")
    masking = Masking(tokenizer.mask_token_id, len(tokenizer), tokenizer.all_special_ids)
    validation = MaskedValidation(held_out, masking, tokenizer.cls_token_id, tokenizer.sep_token_id)
    baseline, most_frequent = unigram_baseline(train.ids, validation.targets)
    rows = {length: pack(train, length, tokenizer.cls_token_id, tokenizer.sep_token_id) for length in (SHORT, LONG)}
    screen.model(console, model, rows)

    stages = _stages(options, len(tokenizer), rows)
    measured = {"untrained": {length: validation.measure(model, length) for length in rows}}
    results = []
    for number, stage in enumerate(stages):
        screen.heading(console, 4 + number, f"Pre-training at {stage.name}")
        results.append(screen.train(console, model, tokenizer, train, stage, number, options.seed))
        measured[f"after {stage.name}"] = {length: validation.measure(model, length) for length in rows}
        screen.trained(console, results[-1])
    screen.accuracy(console, measured, baseline, str(tokenizer.decode([most_frequent])), len(validation.targets))

    screen.heading(console, 6, "Plain transformers fills five masks")
    questions = _questions(options, texts, tokenizer)
    report = {
        "made_by": "llm-jp-modernbert quickstart",
        "seed": options.seed,
        "texts": {
            "origin": texts.origin,
            "complete": texts.complete,
            "documents": len(train),
            "characters": texts.characters,
            "tokens": len(train.ids),
            "held_out_documents": len(held_out),
            "held_out_tokens": len(held_out.ids),
        },
        "vocabulary": len(tokenizer),
        "parameters": model.num_parameters(),
        "packing_efficiency": {length: packed.efficiency for length, packed in rows.items()},
        "stages": [result.as_dict() for result in results],
        "masked_accuracy": {
            when: {length: asdict(result) for length, result in by_length.items()}
            for when, by_length in measured.items()
        },
        "unigram_baseline": {"accuracy": baseline, "token_id": most_frequent},
    }
    out = options.out.expanduser().absolute()
    fresh = out.with_name(f".{out.name}.{os.getpid()}.new")
    try:
        fresh.mkdir(parents=True)
        model.cpu().save_pretrained(fresh, format="plain")
        tokenizer.save_pretrained(fresh)
        reloaded = reload_alone(fresh, [question.text for question in questions])
        report["questions"] = _marked(questions, reloaded["answers"])
        report["seconds"] = time.perf_counter() - began
        (fresh / REPORT).write_text(json.dumps(report, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        _replace(fresh, out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    screen.questions(console, report["questions"], f"{reloaded['module'].split('.')[0]}.{reloaded['class']}")
    screen.farewell(console, options.out, report["seconds"], questions)
    return options.out


def _check_out(out: Path, force: bool) -> None:
    """Told before minutes of work, not after."""
    path = out.expanduser()
    if path.is_file():
        raise UsageError(f"--out {out} is a file. Name a directory to write the model to.")
    if path.is_dir() and any(path.iterdir()):
        if not (path / REPORT).is_file():
            raise UsageError(f"--out {out} is not empty. Name a new directory.")
        if not force:
            raise UsageError(
                f"--out {out} holds a quickstart's model already. Name another directory, or add --force."
            )
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UsageError(f"--out {out}: {parent} cannot be written to. Name a directory elsewhere.")


def _replace(fresh: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    if out.exists():
        out.rename(old)
    try:
        fresh.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _import_heavy(console: Console) -> None:
    with console.status("loading torch and transformers"):
        import transformers

    # The screen is the quickstart's own.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def _tokenizer(source: str | None, texts: Sequence[str]) -> LlmJpTokenizer:
    from llm_jp_modernbert.tokenization import build_tokenizer, train_stand_in

    if source is not None:
        return build_tokenizer(source)
    with warnings.catch_warnings():
        # Few texts yield fewer tokens; how many is on the screen anyway.
        warnings.simplefilter("ignore")
        return train_stand_in(texts, _STAND_IN_VOCABULARY)


def _beginning(documents: TokenizedCorpus, tokens: int) -> TokenizedCorpus:
    """As many documents as hold about so many tokens, at least one."""
    from llm_jp_modernbert.training.data.corpus import TokenizedCorpus

    count = max(1, int((documents.offsets[1:] <= tokens).sum()))
    return TokenizedCorpus(documents.ids[: documents.offsets[count]], documents.offsets[: count + 1])


def _new_model(tokenizer: LlmJpTokenizer, train: TokenizedCorpus) -> LlmJpModernBertForMaskedLM:
    """A small model that knows how frequent every token is, and what stands beside it."""
    from llm_jp_modernbert.modeling.modeling_llm_jp_modernbert import LlmJpModernBertForMaskedLM
    from llm_jp_modernbert.training.data.cooccurrence import start_from_counts
    from llm_jp_modernbert.training.recipe.shapes import SHAPE, model_config

    # A large vocabulary costs most of the time: the encoder before it has to be the smaller.
    larger = len(tokenizer) < _LARGE_VOCABULARY
    settings = {SHAPE: "nano", "max_position_embeddings": LONG, **(_WIDER_THAN_NANO if larger else {})}
    model = LlmJpModernBertForMaskedLM(model_config(settings, vocab_size=len(tokenizer)))
    start_from_counts(model, train)
    return model


def _stages(options: QuickstartOptions, vocabulary: int, rows: dict[int, PackedRows]) -> list[Stage]:
    """The short context and the long one."""
    from .training import Stage

    # The larger the vocabulary, the costlier a token: smaller batches leave more steps for the time.
    tokens = 2048 if vocabulary < _LARGE_VOCABULARY else 1024
    stages = [
        Stage("short context", SHORT, tokens // SHORT, 1, learning_rate=2e-3, final_learning_rate=0.1),
        Stage("long context", LONG, tokens // LONG, 1, learning_rate=5e-4),
    ]
    shares = (1 - _LONG_SHARE, _LONG_SHARE)
    if options.steps is not None:
        counts = (options.steps, math.ceil(options.steps * _LONG_SHARE / (1 - _LONG_SHARE)))
        return [replace(stage, steps=count) for stage, count in zip(stages, counts, strict=True)]
    return [
        replace(
            stage,
            steps=math.ceil(_MOST_EPOCHS * share * len(rows[stage.sequence_length]) / stage.rows_per_step),
            seconds=60 * options.minutes * share,
        )
        for stage, share in zip(stages, shares, strict=True)
    ]


def _questions(
    options: QuickstartOptions, texts: corpus.Texts, tokenizer: PreTrainedTokenizerBase
) -> list[corpus.Question]:
    """Of the embedded corpus its own questions; of the user's texts sentences that were held out."""
    if not options.data:
        return corpus.answerable(corpus.embedded_questions(), tokenizer)
    held_out = corpus.held_out_questions(texts.held_out, tokenizer, texts.train)
    return held_out or corpus.answerable(corpus.embedded_questions(), tokenizer)


def _marked(questions: Sequence[corpus.Question], answers: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
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

"""One stage of a quickstart's training, by the trainer of real runs over texts in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from llm_jp_modernbert.modeling.modeling_llm_jp_modernbert import LlmJpModernBertForMaskedLM
    from llm_jp_modernbert.tokenization import LlmJpTokenizer
    from llm_jp_modernbert.training.data.corpus import TokenizedCorpus
    from llm_jp_modernbert.training.trainer import PretrainingTrainer

# Keeps the draws of a quickstart's stages apart, whatever its seed.
_STAGES = 2


@dataclass(frozen=True)
class Stage:
    """Settings of a stage.

    Attributes:
        name: what it is called on the screen and in the report.
        sequence_length: tokens of a row, special tokens included.
        rows_per_step: rows of a batch.
        steps: optimizer steps at most.
        learning_rate: its peak.
        final_learning_rate: where it ends, as a share of the peak.
        seconds: time for training at most; None for no limit.
    """

    name: str
    sequence_length: int
    rows_per_step: int
    steps: int
    learning_rate: float
    final_learning_rate: float = 0.0
    seconds: float | None = None


@dataclass(frozen=True)
class StageResult:
    """What a stage did.

    Attributes:
        stage: its settings.
        steps: optimizer steps that were taken.
        seconds: time that training took.
        tokens: tokens that the model read.
        epochs: how often it read the whole corpus.
        losses: `(step, training loss since the last entry, in nats)`.
    """

    stage: Stage
    steps: int
    seconds: float
    tokens: int
    epochs: float
    losses: Sequence[tuple[int, float]]

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, for a report."""
        plain = asdict(self)
        settings = plain.pop("stage")
        return {**plain, "settings": settings}


def train_stage(
    model: LlmJpModernBertForMaskedLM,
    tokenizer: LlmJpTokenizer,
    corpus: TokenizedCorpus,
    stage: Stage,
    number: int,
    seed: int,
    progress: Callable[[PretrainingTrainer], TrainerCallback],
) -> StageResult:
    """Trains a model in place.

    Args:
        model: a masked language model.
        tokenizer: that of the corpus.
        corpus: the training text.
        stage: the settings.
        number: of the stage, from 0; each draws an order and masks of its own.
        seed: of the quickstart.
        progress: makes the callback that shows the training.
    """
    from llm_jp_modernbert.training.assembly import make_masking
    from llm_jp_modernbert.training.data.blocks import BlockMaker, BlockSettings
    from llm_jp_modernbert.training.data.order import MemoryShard, Source
    from llm_jp_modernbert.training.data.stream import BatchStream
    from llm_jp_modernbert.training.recipe.arguments import PretrainingArguments
    from llm_jp_modernbert.training.trainer import PretrainingTrainer

    seed = _STAGES * seed + number
    # One block: the whole text is shuffled and packed together.
    settings = BlockSettings(stage.sequence_length, characters=len(corpus.ids), seed=seed)
    with tempfile.TemporaryDirectory() as nothing_is_saved_here:
        arguments = PretrainingArguments(
            output_dir=nothing_is_saved_here,
            stage=stage.name,
            sequence_length=stage.sequence_length,
            per_device_train_batch_size=stage.rows_per_step,
            max_steps=stage.steps,
            max_minutes=None if stage.seconds is None else stage.seconds / 60,
            learning_rate=stage.learning_rate,
            lr_scheduler_type="cosine_with_min_lr",
            lr_scheduler_kwargs={"min_lr_rate": stage.final_learning_rate},
            warmup_steps=0.1,
            weight_decay=0.01,
            seed=seed,
            save_strategy="no",
            report_to="none",
            logging_steps=max(1, min(5, stage.steps // 20)),
        )
        stream = BatchStream(
            BlockMaker([Source([MemoryShard(corpus)])], settings, tokenizer),
            make_masking(arguments, tokenizer),
            lambda step: stage.rows_per_step,
        )
        trainer = PretrainingTrainer(model, arguments, stream)
        trainer.add_callback(progress(trainer))
        trainer.train()
    totals = trainer.totals
    # CLS and SEP are no tokens of the corpus.
    read = totals.tokens - 2 * totals.pieces
    losses = [(int(entry["step"]), float(entry["loss"])) for entry in trainer.state.log_history if "loss" in entry]
    return StageResult(
        stage, trainer.state.global_step, totals.seconds, int(totals.tokens), read / len(corpus.ids), losses
    )

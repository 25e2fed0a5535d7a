"""Skips optimizer steps whose loss or gradient is not finite."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from .recipe.arguments import PretrainingArguments

if TYPE_CHECKING:
    from .counting import Counter
    from .data.order import Source
    from .data.stream import BatchInfo

logger = logging.getLogger(__name__)


class NonFiniteLoss(ValueError):
    """A loss or gradient is NaN or infinite. The message names the file that describes the batch."""


@dataclass(frozen=True)
class _Step:
    """A step whose losses have not been read on the host yet.

    Attributes:
        number: number of the step, from 1.
        infos: descriptions of its batches.
        read: waits for the step and returns whether it is skipped, its gradient norm, and the loss of each batch.
    """

    number: int
    infos: Sequence[BatchInfo]
    read: Callable[[], list[float]]


class NonFiniteCallback(TrainerCallback):
    """Skips optimizer steps whose loss or gradient is not finite, up to the recipe's max_skipped_steps.

    The device decides: torch's fused optimizers skip a step by a tensor, so that the host need not wait for the
    gradients. It reads losses and decision one step later. Other optimizers, and the scaler of float16, wait.

    Args:
        recipe: the recipe.
        counter: counts of the run, with the losses and batches of the current step.
        sources: training data, to name the documents of a batch.
    """

    def __init__(self, recipe: PretrainingArguments, counter: Counter, sources: Sequence[Source]) -> None:
        self.recipe, self.counter, self.sources = recipe, counter, sources
        self._unread: _Step | None = None

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Checks the step on every rank, after gradient clipping.

        Raises:
            NonFiniteLoss: see `read`.
        """
        self.read()
        model: torch.nn.Module = kwargs["model"]
        # Inside of accelerate's.
        optimizer: torch.optim.Optimizer = kwargs["optimizer"].optimizer
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        losses = torch.stack(self.counter.losses)
        finite = losses.isfinite().all()
        if not self.recipe.fp16:
            # In float16, infinite gradients are part of the search for a loss scale; the scaler skips such steps.
            finite = finite & norm.isfinite()
        skipped = 1.0 - finite.float()
        if self.recipe.world_size > 1:
            torch.distributed.all_reduce(skipped, torch.distributed.ReduceOp.MAX)
        read = _copied_to_host(torch.cat([skipped[None], norm[None], losses]))
        self._unread = _Step(state.global_step + 1, self.counter.infos, read)
        if optimizer.defaults.get("fused") and not self.recipe.fp16:
            optimizer.found_inf = skipped  # type: ignore[attr-defined]
        elif self.read():
            # The optimizer leaves parameters without a gradient unchanged.
            model.zero_grad(set_to_none=True)

    def read(self) -> bool:
        """Counts the latest step unless it has been counted, and returns whether it is skipped; waits for the device.

        Raises:
            NonFiniteLoss: more steps than allowed are not finite.
        """
        step, self._unread = self._unread, None
        if step is None:
            return False
        skipped, norm, *losses = step.read()
        self.counter.add_losses(losses)
        if not skipped:
            return False
        totals = self.counter.totals
        report = self._describe_batch(step, losses, norm)
        if totals.skipped_steps >= self.recipe.max_skipped_steps:
            raise NonFiniteLoss(
                f"step {step.number}: the loss or its gradient is not finite (gradient norm {norm}). {report} names "
                "the batch's documents. Lower learning_rate, resume from the previous checkpoint with "
                "resume_from_checkpoint=true, or allow such steps with max_skipped_steps."
            )
        totals.skipped_steps += 1
        if self.recipe.process_index == 0:
            logger.warning(
                "step %d is skipped: its loss or gradient is not finite. %s names its documents.", step.number, report
            )
        return True

    def _describe_batch(self, step: _Step, losses: list[float], norm: float) -> Path:
        name = f"step-{step.number}-rank-{self.recipe.process_index}.json"
        path = Path(str(self.recipe.output_dir)) / "non_finite" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = [
            {"file": self.sources[source].shards[shard].name, "row": row, "token": token, "epoch": epoch}
            for info in step.infos
            for source, epoch, shard, row, token in info.samples.tolist()
        ]
        numbers = {"losses": [str(loss) for loss in losses], "grad_norm": str(norm)}
        content = {"step": step.number, **numbers, "samples": samples}
        path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        return path


def _copied_to_host(values: torch.Tensor) -> Callable[[], list[float]]:
    """Starts copying `(n,)` values to the host, and returns a function that waits for the copy alone."""
    copy = values.to("cpu", non_blocking=True)
    if values.device.type == "cpu":
        return copy.tolist
    copied = torch.Event(values.device)
    copied.record()

    def read() -> list[float]:
        copied.synchronize()
        return copy.tolist()

    return read

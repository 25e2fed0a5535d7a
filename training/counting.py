"""Counts and figures of a run, summed over its ranks once per optimizer step, before its forward pass."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedConfig

from llm_jp_modernbert.modeling.flops import peak_flops, training_flops

from .data.blocks import Block
from .data.stream import BatchInfo
from .recipe.arguments import PretrainingArguments
from .run.totals import Totals

logger = logging.getLogger(__name__)


class Counter:
    """Counts tokens, losses and training time.

    Sums over the ranks go over the CPU, so that no GPU waits for them. Training time runs from the request for a
    step's batches to the end of the step: logging, validation, probes and saving are not part of it.

    Args:
        recipe: the recipe.
        config: model configuration, for the number of floating-point operations.

    Attributes:
        totals: counts over all ranks since the beginning of the run.
        epoch: epoch of the latest batch.
        infos: descriptions of the batches of the current step, of this rank.
        flops: floating-point operations of these batches.
        losses: losses of these batches so far, on the device.
        stop_requested: whether any rank has received a stop signal.
    """

    def __init__(self, recipe: PretrainingArguments, config: PreTrainedConfig) -> None:
        self.totals = Totals()
        self.epoch = 0
        self.infos: list[BatchInfo] = []
        self.flops: list[int] = []
        self.losses: list[torch.Tensor] = []
        self.stop_requested = False
        self._recipe, self._config = recipe, config
        self._group = None
        if recipe.world_size > 1:
            timeout = timedelta(seconds=recipe.ddp_timeout)
            self._group = torch.distributed.new_group(backend="gloo", timeout=timeout)
        # Counts of this rank that have not been summed yet.
        self._pending = Totals()
        self._clock = time.perf_counter()
        # Since the last log line: totals and step at that line, and the sum of losses after it.
        self._logged = Totals()
        self._logged_step = 0
        self._loss_sum = 0.0
        # Since this process started.
        self._process_loss, self._process_steps = 0.0, 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums values over the ranks; every rank must call it."""
        if self._group is None:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(summed, group=self._group)
        return summed.tolist()

    def gather(self, state: dict[str, Any]) -> list[dict[str, Any]]:
        """On rank 0, the states of all ranks; every rank must call it."""
        if self._group is None:
            return [state]
        states: list[Any] = [None] * self._recipe.world_size
        torch.distributed.gather_object(state, states if self._recipe.process_index == 0 else None, group=self._group)
        return states

    def _add_block(self, block: Block) -> None:
        """Counts a block and reports its unreadable rows."""
        for name, count in block.counts.items():
            setattr(self._pending, name, getattr(self._pending, name) + count)
        for problem in block.problems:
            logger.warning("skipped: %s", problem)
        unnamed = block.counts["broken_rows"] - len(block.problems)
        if unnamed:
            logger.warning("skipped: %s more rows of the same block", f"{unnamed:,}")

    def start_clock(self) -> None:
        """Starts the training time of a step."""
        self._clock = time.perf_counter()

    def stop_clock(self) -> float:
        """Returns the seconds since `start_clock`; those of rank 0 are added to the totals.

        Several ranks get them with the next sum, so that all of them stop at the same step.
        """
        seconds = time.perf_counter() - self._clock
        if self._group is None:
            self.totals.seconds += seconds
        elif self._recipe.process_index == 0:
            self._pending.seconds += seconds
        return seconds

    def settle(self) -> None:
        """Sums what has not been summed yet; every rank must call it."""
        self.totals.add(self.sum(self._pending.values()))
        self._pending = Totals()

    def start_step(
        self, infos: list[BatchInfo], lengths: Sequence[npt.NDArray[np.int64]], stop_requested: bool
    ) -> float:
        """Counts the batches of a step.

        Args:
            infos: descriptions of this rank's batches.
            lengths: for each batch, the numbers of tokens that attend to each other, `(pieces,)`.
            stop_requested: whether this rank has received a stop signal.

        Returns:
            The number of labels in the batches of all ranks; of this rank without average_tokens_across_devices.
        """
        self.infos, self.losses = infos, []
        self.epoch = max(info.epoch for info in infos)
        self.flops = [
            training_flops(self._config, sizes, info.labels) for sizes, info in zip(lengths, infos, strict=True)
        ]
        for info, flops in zip(infos, self.flops, strict=True):
            for block in info.blocks:
                self._add_block(block)
            self._pending.add_batch(info, flops)
        own = float(sum(info.labels for info in infos))
        *counts, labels, stopping = self.sum([*self._pending.values(), own, float(stop_requested)])
        self.totals.add(counts)
        self._pending = Totals()
        self.stop_requested = stopping > 0
        return labels if self._recipe.average_tokens_across_devices else own

    def add_losses(self, losses: Sequence[float]) -> None:
        """Adds the losses of a step's batches to the logged mean, once per step; non-finite ones count as 0."""
        loss = sum(filter(math.isfinite, losses))
        self._loss_sum += loss
        self._process_loss += loss
        self._process_steps += 1

    def mean_loss(self) -> float:
        """The mean loss of the steps that this process has taken; every rank must call it."""
        return self.sum([self._process_loss])[0] / self._recipe.world_size / max(1, self._process_steps)

    def figures(self, step: int) -> dict[str, float]:
        """Figures for the log line after a step: mean loss, data, speed and memory since the previous line."""
        totals, before = self.totals, self._logged
        self._logged = Totals(*totals.values())
        loss = self.sum([self._loss_sum])[0] / self._recipe.world_size / (step - self._logged_step)
        self._logged_step, self._loss_sum = step, 0.0
        seconds = max(1e-9, totals.seconds - before.seconds)
        rate = (totals.flops - before.flops) / seconds
        figures = {
            "loss": loss,
            "tokens": int(totals.tokens),
            "padded_tokens": int(totals.padded_tokens),
            "documents": int(totals.documents),
            "packing_efficiency": round(totals.packing_efficiency, 4),
            "tokens_per_second": (totals.tokens - before.tokens) / seconds,
            "total_flos": totals.flops,
            "flops_per_second": rate,
            "peak_memory_gib": _peak_memory(self._recipe.device),
        }
        if self._recipe.device.type == "cuda":
            precision = "bfloat16" if self._recipe.bf16 else "float16" if self._recipe.fp16 else "float32"
            peak = peak_flops(torch.cuda.get_device_name(), precision)
            if peak is not None:
                figures["mfu"] = rate / (peak * self._recipe.world_size)
        return figures

    def state_dict(self) -> dict[str, Any]:
        """State of this rank, as JSON values."""
        return {
            "epoch": self.epoch,
            "totals": asdict(self.totals),
            "logged": asdict(self._logged),
            "logging": {"loss": self._loss_sum, "step": self._logged_step},
        }

    def load_state_dict(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Restores the `state_dict` of each rank of an earlier run, whose number of ranks may differ."""
        first = states[0]
        self.epoch = first["epoch"]
        self.totals = Totals(**first["totals"])
        self._logged = Totals(**first["logged"])
        self._logged_step = first["logging"]["step"]
        losses = [state["logging"]["loss"] for state in states]
        same_ranks = len(states) == self._recipe.world_size
        self._loss_sum = losses[self._recipe.process_index] if same_ranks else sum(losses) / len(losses)


def _peak_memory(device: torch.device) -> float:
    """Peak memory of this process in GiB: that of the GPU, or resident memory if it trains on another device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

"""How many steps fit into a time, from the speed of this machine."""

from __future__ import annotations

import copy
import time

import torch
from transformers import PreTrainedModel

from .dataset import PackedDataset, collate
from .masking import Masking
from .optimization import adamw
from .packing import PackedRows
from .stage import Stage


def seconds_per_step(
    model: PreTrainedModel, rows: PackedRows, masking: Masking, stage: Stage, timed_steps: int = 2
) -> float:
    """Time of one optimizer step of a stage, in seconds: the mean over a few, of a copy of the model.

    Args:
        model: the model; it stays as it is.
        rows: the training text, packed to `stage.sequence_length`.
        masking: the training objective.
        stage: the settings; its number of steps does not matter.
        timed_steps: how many steps are timed, after one that is not: the first one is slow.
    """
    per_step = stage.rows_per_step
    data = PackedDataset(rows, masking, (timed_steps + 1) * per_step, seed=0)
    # A step draws dropout; the run that follows must not depend on whether the speed was measured before.
    with torch.random.fork_rng():
        trained = copy.deepcopy(model).train()
        optimizer = adamw(trained, learning_rate=0.0)
        began = 0.0
        for step in range(timed_steps + 1):
            if step == 1:
                began = _now(trained.device)
            batch = collate([data[step * per_step + i] for i in range(per_step)])
            trained(**{name: tensor.to(trained.device) for name, tensor in batch.items()}).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return (_now(trained.device) - began) / timed_steps


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()

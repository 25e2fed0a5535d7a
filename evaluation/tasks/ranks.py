"""Several processes of one evaluation, as `accelerate launch` starts them."""

from __future__ import annotations

import os

_OWN_RANK = "LLM_JP_MODERNBERT_EVALUATION_RANK"
_DISTRIBUTED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def rank() -> int:
    """Rank of this process; all ranks share fine-tuning, and rank 0 does everything else."""
    return int(os.environ.get(_OWN_RANK, "0"))


def work_alone() -> None:
    """Gives this process one GPU, and hides the other GPUs and processes from the libraries.

    Grid points are independent, so each is trained by one process on one GPU; a Trainer that saw all GPUs would
    spread every point over all of them. Call this before CUDA is used.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    os.environ[_OWN_RANK] = os.environ.get("RANK", "0")
    for name in _DISTRIBUTED:
        os.environ.pop(name, None)
    visible = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    if visible or local:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[local % len(visible)] if visible else str(local)

"""Several processes of one call, as `accelerate launch` starts them."""

from __future__ import annotations

import os

_OWN_RANK = "LLM_JP_MODERNBERT_EVALUATION_RANK"
_DISTRIBUTED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def rank() -> int:
    """Which of the processes this is; they share the work of fine-tuning, and the first does all the rest."""
    return int(os.environ.get(_OWN_RANK, "0"))


def work_alone() -> None:
    """Gives this process one GPU of its own, and hides the others and the other processes from the libraries.

    Grid points are independent of each other: each is trained by one process on one GPU, where a Trainer that saw them
    all would spread every point over all of them. To be called before CUDA is used.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    os.environ[_OWN_RANK] = os.environ.get("RANK", "0")
    for name in _DISTRIBUTED:
        os.environ.pop(name, None)
    visible = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    if visible or local:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[local % len(visible)] if visible else str(local)

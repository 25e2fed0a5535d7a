"""The commands that made results, read from what the results say they depend on."""

from __future__ import annotations

from collections.abc import Iterable
from shlex import quote
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_jp_modernbert.evaluation.report.results import Row

DATA = "DATA"
"""Stands for a folder of data, which every machine has elsewhere."""


def evaluations(rows: Iterable[Row]) -> list[str]:
    """One command for all measurements that differ by task or model alone, over lines of a shell.

    Args:
        rows: of any models; local data are named `DATA`, and texts by their file.
    """
    models: dict[tuple[str, ...], dict[str, dict[str, None]]] = {}
    for row in rows:
        by_model = models.setdefault(tuple(_options(row)), {})
        by_model.setdefault(row.model, {})[row.selector or row.task] = None
    commands = []
    for options, by_model in models.items():
        alike: dict[tuple[str, ...], list[str]] = {}
        for model, tasks in by_model.items():
            alike.setdefault(tuple(tasks), []).append(model)
        for together, names in alike.items():
            named = " ".join(quote(name) for name in names)
            told = " ".join(["--tasks", quote(",".join(together)), *options])
            commands.append(f"llm-jp-modernbert evaluate {named} \\\n    {told}")
    return commands


def _options(row: Row) -> list[str]:
    settings = row.settings
    told: list[tuple[str, Any]] = [("--protocol", row.protocol if row.protocol != "improved" else None)]
    if row.text_files:
        told += [("--texts", f"{DATA}/{name}") for name in row.text_files]
    elif row.dataset_revision.startswith("sha256:") and not row.task.startswith("fill-mask"):
        told.append(("--data-dir", DATA))
    told += [("--train-file", f"{DATA}/{name}") for name in row.train_files]
    told += [("--limit", settings.get("limit")), ("--seed", row.seed or None)]
    told += [("--learning-rate", f"{rate:g}") for rate in dict.fromkeys(point["learning_rate"] for point in row.grid)]
    told += [("--epochs", epochs) for epochs in dict.fromkeys(point["epochs"] for point in row.grid)]
    told.append(("--pooling", settings.get("pooling") if settings.get("pooling") != "auto" else None))
    told.append(("--dtype", settings.get("dtype")))
    return [f"{name} {quote(str(value))}" for name, value in told if value is not None]

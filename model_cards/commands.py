"""The commands that made results, read from what the results say they depend on."""

from __future__ import annotations

from collections.abc import Iterable
from shlex import quote
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_jp_modernbert.evaluation.report.results import Row

DATA = "DATA"
"""Stands for a folder of data, which every machine has elsewhere."""

_ON_TEXTS = "pseudo-perplexity"


def evaluations(rows: Iterable[Row]) -> list[str]:
    """One command for all measurements that differ by task or model alone, over lines of a shell.

    Args:
        rows: of any models; local data are named `DATA`, and texts by their file.
    """
    models: dict[tuple[str, ...], dict[str, dict[str, None]]] = {}
    for row in rows:
        by_model = models.setdefault(tuple(_options(row)), {})
        by_model.setdefault(row.model, {})[_task(row)] = None
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


def _task(row: Row) -> str:
    if row.task == "retrieval" and row.settings.get("source"):
        return f"retrieval:{row.settings['source']}"
    return row.task.replace("jmteb-", "jmteb:", 1) if row.task.startswith("jmteb-") else row.task


def _options(row: Row) -> list[str]:
    settings = row.settings
    told: list[tuple[str, Any]] = [("--protocol", row.protocol if row.protocol != "improved" else None)]
    if row.task == _ON_TEXTS and row.dataset.endswith((".jsonl", ".jsonl.gz")):
        told += [("--texts", f"{DATA}/{name}") for name in row.dataset.split("+")]
    elif row.dataset_revision.startswith("sha256:") and not row.task.startswith("fill-mask"):
        told.append(("--data-dir", DATA))
    _, _, trained_on = row.dataset.partition(" trained on ")
    told += [("--train-file", f"{DATA}/{name}") for name in trained_on.split("+") if name]
    told += [("--limit", settings.get("limit")), ("--seed", row.seed or None)]
    points = [point.partition("x") for point in settings.get("grid", ())]
    told += [("--learning-rate", rate) for rate in dict.fromkeys(rate for rate, _, _ in points)]
    told += [("--epochs", epochs) for epochs in dict.fromkeys(epochs for _, _, epochs in points if epochs)]
    told.append(("--pooling", settings.get("pooling") if settings.get("pooling") != "auto" else None))
    told.append(("--dtype", settings.get("dtype")))
    return [f"{name} {quote(str(value))}" for name, value in told if value is not None]

"""Reads result rows of schema 1, which kept several facts in display strings and in the settings."""

from __future__ import annotations

from typing import Any

from llm_jp_modernbert.core.checkpoint_names import CheckpointName

_PERCENTAGES = (
    *("mean", "recall", "mrr", "ndcg", "map", "pearson", "spearman", "cosine"),
    *("f1", "exact_match", "precision", "mcc", "auc", "v_measure"),
)
_AVERAGED = {"jsts": "pearson", "jnli": "accuracy", "jcola": "accuracy"}


def upgrade(row: dict[str, Any]) -> dict[str, Any]:
    """Converts one row to schema 2.

    Args:
        row: a row of schema 1 as JSON values; optional fields may be missing.

    Raises:
        KeyError: a required field is missing.
    """
    settings = dict(row.get("settings", {}))
    dataset, _, train_files = row["dataset"].partition(" trained on ")
    context = settings.pop("context", None)
    subset = row.get("subset", "")
    if subset.startswith(("context-", "length-")):
        context = int(subset.rpartition("-")[2])
    official = not train_files and dataset.lower() == row["task"] and row["split"] == "validation"
    return {
        **row,
        **_grid_point(settings),
        **checkpoint_fields(row["model"]),
        "dataset": dataset,
        "train_files": train_files.split("+") if train_files else [],
        "text_files": dataset.split("+") if dataset.endswith((".jsonl", ".jsonl.gz")) else [],
        "selector": _selector(row["task"], settings),
        "averaged_with": list(_AVERAGED) if official and _AVERAGED.get(row["task"]) == row["metric"] else [],
        "context": context,
        "scale": 100 if row["metric"].startswith(_PERCENTAGES) or row["metric"].endswith("accuracy") else 1,
        "settings": settings,
    }


def checkpoint_fields(model: str) -> dict[str, Any]:
    """Stage and step of a model whose name is that of a checkpoint."""
    name = CheckpointName.parse(model)
    if name is None:
        return {"stage": "", "step": None}
    return {"stage": "" if name.stage == "checkpoint" else name.stage, "step": name.step}


def _grid_point(settings: dict[str, Any]) -> dict[str, Any]:
    """Moves the selected grid point out of the settings of a fine-tuning task."""
    point = {"selected_on": settings.pop("selected_on", None), "train_examples": settings.pop("train_examples", None)}
    scores = settings.pop("grid", None)
    if scores is None:
        return point
    point["learning_rate"], point["epochs"] = settings.pop("learning_rate", None), settings.get("epochs")
    choices = [(float(rate), int(epochs)) for rate, _, epochs in (name.partition("x") for name in scores)]
    # The selected number of epochs had overwritten the grid's.
    settings["epochs"] = list(dict.fromkeys(epochs for _, epochs in choices))
    point["grid"] = [
        {"learning_rate": rate, "epochs": epochs, "value": value}
        for (rate, epochs), value in zip(choices, scores.values(), strict=True)
    ]
    return point


def _selector(task: str, settings: dict[str, Any]) -> str:
    if task == "retrieval" and settings.get("source"):
        return f"retrieval:{settings['source']}"
    return task.replace("jmteb-", "jmteb:", 1) if task.startswith("jmteb-") else task

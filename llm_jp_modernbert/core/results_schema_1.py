"""Reads result rows of schema 1, which kept several facts in display strings and in the settings."""

from __future__ import annotations

from typing import Any

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
    task, metric, subset = row["task"], row["metric"], row.get("subset", "")
    settings = dict(row.get("settings", {}))
    dataset, _, train_files = row["dataset"].partition(" trained on ")
    context = settings.pop("context", None)
    if subset.startswith(("context-", "length-")):
        context = int(subset.rpartition("-")[2])
    selector = task.replace("jmteb-", "jmteb:", 1) if task.startswith("jmteb-") else task
    if task == "retrieval" and settings.get("source"):
        selector = f"retrieval:{settings['source']}"
    official = not train_files and dataset.lower() == task and row["split"] == "validation"
    # The selected grid point of a fine-tuning task was part of its settings.
    point = {name: settings.pop(name, None) for name in ("selected_on", "train_examples")}
    scores = settings.pop("grid", None)
    if scores is not None:
        point["learning_rate"], point["epochs"] = settings.pop("learning_rate", None), settings.get("epochs")
        choices = [(float(rate), int(epochs)) for rate, _, epochs in (name.partition("x") for name in scores)]
        # The selected number of epochs had overwritten the grid's.
        settings["epochs"] = list(dict.fromkeys(epochs for _, epochs in choices))
        point["grid"] = [
            {"learning_rate": rate, "epochs": epochs, "value": value}
            for (rate, epochs), value in zip(choices, scores.values(), strict=True)
        ]
    return {
        **row,
        **point,
        "dataset": dataset,
        "train_files": train_files.split("+") if train_files else [],
        "text_files": dataset.split("+") if dataset.endswith((".jsonl", ".jsonl.gz")) else [],
        "selector": selector,
        "averaged_with": list(_AVERAGED) if official and _AVERAGED.get(task) == metric else [],
        "context": context,
        "scale": 100 if metric.startswith(_PERCENTAGES) or metric.endswith("accuracy") else 1,
        "settings": settings,
    }

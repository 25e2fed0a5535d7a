"""Render the finished card of a folder.

    python -m llm_jp_modernbert.model_cards.research.finished FOLDER ...

Reads `card.json`, `config.json` and `training.json` of each folder, and either `results.json` (published by others) or
the files written by `measured`. Writes `README.md`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import read_json, write_whole
from llm_jp_modernbert.core.hub import Checkpoint
from llm_jp_modernbert.core.results import Results, Row
from llm_jp_modernbert.publishing.staging import ASSETS, RECIPE, RESULTS

from ..card import model_card
from ..check import validate_card
from ..facts import Estimate, EvaluatedCheckpoint, Example, Finding, ModelFacts, Plot, Source
from ..plots import PATH as TRAINING_PLOT

FINDINGS = "findings.json"
MEASURED = "measured.json"

_CAPTIONS = {
    "fill-mask-default.png": "Top-1 accuracy on the fill-mask prompts, before and after each stage",
    "pseudo-perplexity-paper.png": "Pseudo-perplexity by document length, paper protocol",
    "similarity-default.png": "Cosine similarity of related and of random passages, before and after each stage",
}


def read_facts(folder: Path) -> ModelFacts:
    """Read the facts of a folder.

    Raises:
        UsageError: a file is missing or incomplete.
    """
    card = read_json(folder / "card.json")
    try:
        facts = {
            **{key: tuple(value) if isinstance(value, list) else value for key, value in card.items()},
            "config": read_json(folder / "config.json"),
            "training": read_json(folder / "training.json"),
            "checkpoints": [
                Checkpoint(**{"commit": "", "tokens": None, **checkpoint})
                for checkpoint in card.get("checkpoints", [])
            ],
        }
        if (folder / MEASURED).is_file():
            facts |= _measured(folder)
        else:
            facts["rows"] = [Row(model=card["name"], **row) for row in read_json(folder / "results.json")["rows"]]
            facts["source"] = Source(**card["source"])
        return ModelFacts(**facts)
    except (KeyError, TypeError) as error:
        raise UsageError(f"{folder}: incomplete facts ({error}).") from error


def _measured(folder: Path) -> dict[str, Any]:
    """Facts written by `measured`."""
    facts = read_json(folder / MEASURED)
    rows = list(Results(folder / RESULTS).rows())
    checkpoints = [
        EvaluatedCheckpoint(**checkpoint, rows=[row for row in rows if row.model == checkpoint["name"]])
        for checkpoint in facts["evaluated_checkpoints"]
    ]
    return {
        **facts,
        "examples": [Example(**example) for example in facts["examples"]],
        "evaluated_checkpoints": checkpoints,
        "findings": [
            Finding(**{**finding, "estimates": [Estimate(**estimate) for estimate in finding["estimates"]]})
            for finding in read_json(folder / FINDINGS)
        ],
        # The card is about the last checkpoint.
        "rows": checkpoints[-1].rows,
        "recipe_file": RECIPE,
        "curve": TRAINING_PLOT if (folder / TRAINING_PLOT).is_file() else None,
        "plots": [
            Plot(f"{ASSETS}/{name}", caption)
            for name, caption in _CAPTIONS.items()
            if (folder / ASSETS / name).is_file()
        ],
    }


def write_card(folder: Path) -> Path:
    """Render, validate and write the card of a folder."""
    card = model_card(read_facts(folder))
    validate_card(card, folder)
    path = folder / "README.md"
    write_whole(path, str(card))
    return path


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(write_card(Path(argument)))

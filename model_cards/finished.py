"""The card of a model that this project did not release, from facts that others published.

`python -m llm_jp_modernbert.model_cards.finished FOLDER` reads `config.json`, `training.json`, `results.json` and
`card.json` there, and writes `README.md`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from llm_jp_modernbert.errors import UsageError
from llm_jp_modernbert.evaluation.results import Row
from llm_jp_modernbert.files import write_whole
from llm_jp_modernbert.hub import Checkpoint

from .about import About, Source
from .card import model_card
from .check import validate_card

CARD = "README.md"

# What others do not tell of a figure.
_UNTOLD: dict[str, Any] = {
    "dataset_revision": "",
    "subset": "",
    "examples": 0,
    "higher_is_better": True,
    "low": None,
    "high": None,
    "baseline": None,
    "revision": "",
    "settings": {},
    "seed": 0,
    "versions": {},
}


def about_folder(folder: Path) -> About:
    """The facts of a folder.

    Raises:
        UsageError: a file is missing or not what it ought to be.
    """
    card = _read(folder / "card.json")
    try:
        facts = {
            **{key: tuple(value) if isinstance(value, list) else value for key, value in card.items()},
            "config": _read(folder / "config.json"),
            "training": _read(folder / "training.json"),
            "rows": [
                Row(**{**_UNTOLD, "model": card["name"], **row}) for row in _read(folder / "results.json")["rows"]
            ],
            "checkpoints": [
                Checkpoint(**{"commit": "", "tokens": None, **one}) for one in card.get("checkpoints", [])
            ],
            "source": Source(**card["source"]),
        }
        return About(**facts)
    except (KeyError, TypeError) as error:
        raise UsageError(f"{folder}: its facts are not complete ({error}).") from error


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({error}).") from error


def write_card(folder: Path) -> Path:
    """Renders a folder's card, checks it, and writes it."""
    card = model_card(about_folder(folder))
    validate_card(card, folder)
    write_whole(folder / CARD, str(card))
    return folder / CARD


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(write_card(Path(argument)))

"""The card of a model from the facts in its folder.

`python -m llm_jp_modernbert.model_cards.research.finished FOLDER` reads `card.json`, `config.json` and `training.json`
there, and writes `README.md`. Its figures come from `results.json` (published by others) or from the files
that `measured` wrote.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import read_json, write_whole
from llm_jp_modernbert.core.hub import Checkpoint
from llm_jp_modernbert.evaluation.report.results import Results, Row
from llm_jp_modernbert.publishing.staging import ASSETS, RECIPE, RESULTS

from ..about import About, Estimate, Example, Finding, Picture, Source, State
from ..card import model_card
from ..check import validate_card
from ..plots import PATH as TRAINING_PLOT

CARD = "README.md"
FINDINGS = "findings.json"
MEASURED = "measured.json"

_CAPTIONS = {
    "fill-mask-improved.png": "Right first answers to the fill-mask prompts, at first and after either stage",
    "similarity-improved.png": "Cosines of passages that belong together and of any two, in these states",
    "pseudo-perplexity-paper.png": "Pseudo-perplexity by length of the document, in the paper's protocol",
}

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
    card = read_json(folder / "card.json")
    try:
        facts = {
            **{key: tuple(value) if isinstance(value, list) else value for key, value in card.items()},
            "config": read_json(folder / "config.json"),
            "training": read_json(folder / "training.json"),
            "checkpoints": [
                Checkpoint(**{"commit": "", "tokens": None, **one}) for one in card.get("checkpoints", [])
            ],
            **(_measured(folder) if (folder / MEASURED).is_file() else _published(folder, card)),
        }
        return About(**facts)
    except (KeyError, TypeError) as error:
        raise UsageError(f"{folder}: its facts are not complete ({error}).") from error


def _published(folder: Path, card: dict[str, Any]) -> dict[str, Any]:
    """Figures of others."""
    rows = read_json(folder / "results.json")["rows"]
    return {
        "rows": [Row(**{**_UNTOLD, "model": card["name"], **row}) for row in rows],
        "source": Source(**card["source"]),
    }


def _measured(folder: Path) -> dict[str, Any]:
    """What `model_cards.measured` wrote."""
    facts = read_json(folder / MEASURED)
    rows = list(Results(folder / RESULTS).rows())
    states = [State(**{**one, "rows": [row for row in rows if row.model == one["name"]]}) for one in facts["states"]]
    plots = sorted(path.name for path in (folder / ASSETS).glob("*.png"))
    findings = [
        Finding(**{**one, "estimates": [Estimate(**estimate) for estimate in one["estimates"]]})
        for one in read_json(folder / FINDINGS)
    ]
    return {
        **facts,
        "examples": [Example(**one) for one in facts["examples"]],
        "states": states,
        "findings": findings,
        # The card is of the last state.
        "rows": states[-1].rows,
        "recipe_file": RECIPE if (folder / RECIPE).is_file() else None,
        "curve": TRAINING_PLOT if (folder / TRAINING_PLOT).is_file() else None,
        "plots": [
            Picture(f"{ASSETS}/{name}", _CAPTIONS.get(name, name.removesuffix(".png").replace("-", " ")))
            for name in plots
            if not name.startswith("finding-")
        ],
    }


def write_card(folder: Path) -> Path:
    """Renders a folder's card, checks it, and writes it."""
    card = model_card(about_folder(folder))
    validate_card(card, folder)
    write_whole(folder / CARD, str(card))
    return folder / CARD


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(write_card(Path(argument)))

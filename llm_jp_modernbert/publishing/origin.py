"""The origin of a released model: its base model, data, languages and license.

All of it comes from the training log or the record of a job, the recipe, and the cards of the model, of its
base model and of its data. A license or a language that none of these states is left out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core import hub
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.hub_errors import explain
from llm_jp_modernbert.core.references import ModelReference, is_repository
from llm_jp_modernbert.model_cards.check import is_language, is_license, read_metadata, text, texts
from llm_jp_modernbert.model_cards.facts import is_continued

from . import staging
from .options import ReleaseOptions

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cards:
    """Reads the metadata of cards. Those of a missing or invalid card are empty.

    Attributes:
        is_online: whether cards are downloaded; if not, only those on disk are read.
    """

    api: HfApi
    patience: hub.Patience
    is_online: bool = True

    def read(self, name: str, revision: str | None = None, kind: str = "model") -> Mapping[str, Any]:
        """The metadata of the card of a directory or repository."""
        try:
            path = Path(os.path.expanduser(name)) / staging.CARD
            if not path.is_file() and is_repository(name):
                arguments = {"revision": revision, "repo_type": kind, "local_files_only": not self.is_online}
                path = Path(self.patience(partial(self.api.hf_hub_download, name, staging.CARD, **arguments)))
            return read_metadata(path) if path.is_file() else {}
        except UsageError as error:
            logger.warning("%s", error)
        except Exception as error:
            logger.debug("%s: no card: %s", name, explain(error))
        return {}


def with_origin(options: ReleaseOptions, stages: Sequence[Mapping[str, Any]], cards: Cards) -> ReleaseOptions:
    """Completes the options of a release by what is known about the origin of its model. Given options are kept.

    Args:
        options: `source` holds the model, and its recipe if it was trained by this package.
        stages: the stages in the training log.
        cards: reads the cards.
    """
    recipe = staging.read_recipe(options.source)
    own = cards.read(str(options.source))
    base, base_card = _base(options, stages, cards)
    data = [source["name"] for stage in stages for source in stage.get("data", ())]
    for name, part in staging.last_record(options.source).get("parts", {}).items():
        if not name.startswith("test"):
            # A Hub dataset may be followed by its configuration.
            data.append("/".join(part["name"].split("/")[:2]))
    datasets = list(dict.fromkeys([*options.datasets, *filter(is_repository, data)]))
    languages = options.languages or _languages(own)
    if not languages:
        described = [cards.read(name, kind="dataset") for name in (*datasets, *_directories(recipe.get("train_data")))]
        languages = _languages(*described, base_card)
    completed = replace(options, base_model=base, datasets=datasets, languages=languages)
    if options.license is None:
        completed = replace(completed, **(_license(own) or _license(base_card)))
    return completed


def unknown(options: ReleaseOptions, stages: Sequence[Mapping[str, Any]]) -> list[str]:
    """The command-line options for what is not known about the origin of a model, after `with_origin`."""
    stated = {"--license": options.license, "--language": options.languages}
    if options.license == "other":
        stated["--license-name"] = options.license_name
    if is_continued(stages, staging.read_recipe(options.source)) or staging.last_record(options.source):
        stated["--base-model"] = options.base_model
    return [option for option, value in stated.items() if not value]


def _base(
    options: ReleaseOptions, stages: Sequence[Mapping[str, Any]], cards: Cards
) -> tuple[str | None, Mapping[str, Any]]:
    """The nearest published model that training started from, directly or over earlier stages, and its card."""
    if options.base_model:
        return options.base_model, cards.read(options.base_model)
    if record := staging.last_record(options.source):
        return _base_of_record(options, record["base"], cards)
    folder: Path | None = options.source
    for stage in reversed(stages):
        recipe = staging.read_recipe(folder) if folder is not None else {}
        logged = str(stage.get("init_from") or "")
        start = logged if is_repository(logged.partition("@")[0]) else str(recipe.get("init_from") or logged)
        if not start:
            return None, {}
        reference = ModelReference.parse(start)
        folder = reference.path if os.path.isdir(reference.path) else None
        card = cards.read(reference.name, reference.revision)
        name = _published_name(folder, card) if folder is not None else reference.name
        # Logs of version 0.1 do not say whether `runs/stage1`, which is gone, was a directory.
        is_known = folder is not None or start == logged or (card and "init_from" not in stage)
        if name and is_known and is_repository(name) and name != options.repository:
            return name, card
        if folder is not None and not (folder / hub.TRAINING).is_file():
            return None, card
    own = next(filter(is_repository, texts(cards.read(str(options.source)), "base_model")), None)
    return (own, cards.read(own)) if own else (None, {})


def _base_of_record(options: ReleaseOptions, base: str, cards: Cards) -> tuple[str | None, Mapping[str, Any]]:
    """The base in a record and its card; for an unpublished directory, the base of that, if any."""
    if is_repository(base):
        return base, cards.read(base)
    recipe = staging.read_recipe(options.source)
    folder = Path(os.path.expanduser(str(recipe.get("base") or recipe.get("init_from") or "")))
    if not (folder / "config.json").is_file():
        return None, {}
    card = cards.read(str(folder))
    if name := _published_name(folder, card):
        return name, card
    name, base_card = _base(replace(options, source=folder), staging.read_stages(folder), cards)
    return name, card or base_card


def _published_name(folder: Path, card: Mapping[str, Any]) -> str | None:
    """The repository that a local copy names in the manifest of its release or in the results on its card."""
    if (folder / staging.MANIFEST).is_file():
        try:
            return staging.read_manifest(folder / staging.MANIFEST).get("name", "").partition("@")[0]
        except UsageError as error:
            logger.warning("%s", error)
    models = card.get("model-index")
    names = [text(model, "name") for model in (models if isinstance(models, list) else ()) if isinstance(model, dict)]
    return next((name for name in names if name and is_repository(name)), None)


def _directories(data: Any) -> list[str]:
    """The directories among the training data of a recipe, which may hold a card."""
    listed = data if isinstance(data, list) else [data]
    entries = [entry.get("path") if isinstance(entry, dict) else entry for entry in listed]
    return [entry for entry in entries if isinstance(entry, str) and os.path.isdir(os.path.expanduser(entry))]


def _languages(*cards: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(code for card in cards for code in texts(card, "language") if is_language(code)))


def _license(card: Mapping[str, Any]) -> dict[str, Any]:
    is_known = is_license(text(card, "license") or "")
    return {name: text(card, name) for name in ("license", "license_name")} if is_known else {}

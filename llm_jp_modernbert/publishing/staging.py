"""What a release consists of, put together in a folder before anything is sent.

Weights in safetensors, configuration, tokenizer, recipe and log of the training, results and their plots, exports,
licence, model card, and `release.json`, which lists all of it with SHA-256 sums. A release that is put together twice
from the same things has the same bytes: nothing in it tells the time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import read_config, sha256, write_whole
from llm_jp_modernbert.core.hub import TRAINING
from llm_jp_modernbert.evaluation.report.results import Results, Row, instances_of, model_folder, read_rows, write_rows
from llm_jp_modernbert.model_cards.card import eval_result_files, model_card
from llm_jp_modernbert.model_cards.check import validate_card
from llm_jp_modernbert.model_cards.facts import ModelFacts, Plot
from llm_jp_modernbert.model_cards.plots import PATH as TRAINING_PLOT
from llm_jp_modernbert.model_cards.plots import plot_training

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MANIFEST = "release.json"
"""The file of a release that lists the others."""

RECIPE = "recipe.yaml"
RESULTS = "results"
ASSETS = "assets"
CARD = "README.md"
LICENSE = "LICENSE"
DEFAULT_LICENSE = "apache-2.0"

_TEMPLATES = files("llm_jp_modernbert.model_cards") / "templates"
# Keys of a recipe whose values are places on the machine that trained: others learn the names alone.
_PLACES = ("train_data", "validation_data", "tokenizer", "output_dir", "init_from", "resume_from_checkpoint")


def stage_training(source: Path, folder: Path) -> None:
    """Copies what training wrote about itself; places on the machine become names."""
    from llm_jp_modernbert.training.run.averaging import PROVENANCE

    for name in (TRAINING, PROVENANCE):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    if (source / RECIPE).is_file():
        shutil.copyfile(source / RECIPE, folder / RECIPE)
        make_public(folder)


def make_public(folder: Path) -> None:
    """Takes the folders of this machine out of a recipe that is staged already."""
    if (folder / RECIPE).is_file():
        write_whole(folder / RECIPE, public_recipe((folder / RECIPE).read_text(encoding="utf-8")))


def public_recipe(recipe: str) -> str:
    """A recipe without the folders of the machine that it ran on."""
    import yaml

    settings = yaml.safe_load(recipe)
    for key in _PLACES:
        # True is no place: it says to go on from whatever is there.
        if settings.get(key) not in (None, "", True, False):
            settings[key] = _named(settings[key])
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def _named(place: Any) -> Any:
    if isinstance(place, list):
        return [_named(one) for one in place]
    if isinstance(place, Mapping):
        return {**place, "path": _named(place["path"])}
    text = str(place)
    # ORG/NAME stays; a path of more parts, or an absolute one, is of this machine.
    is_repository = text.count("/") == 1 and not text.startswith(("/", "~", ".")) and not Path(text).exists()
    return text if is_repository else Path(text).name


def stage_results(measured: Results, belongs: Collection[str], name: str, folder: Path) -> list[Row]:
    """Copies the rows of a model's results, under its public name, and draws their plots.

    Args:
        measured: all results.
        belongs: revisions and names that are the model's, as `Row.revision` and `Row.model` have them.
        name: what the release is called.
        folder: of the release.

    Returns:
        The rows.

    Raises:
        UsageError: none is the model's, or there is no library to plot with.
    """
    from llm_jp_modernbert.evaluation.report.plots import is_plotted, plot_all

    rows: list[Row] = []
    others: set[str] = set()
    with TemporaryDirectory() as aside:
        for path in measured.files():
            found = read_rows(path)
            if not found:
                continue
            if not {found[0].revision, found[0].model} & set(belongs):
                others.add(found[0].model)
                continue
            public = [replace(row, model=name) for row in found]
            rows += public
            for target in (folder / RESULTS, Path(aside)):
                write_rows(target / found[0].task / model_folder(name) / path.name, public)
            if instances_of(path).is_file():
                # What plots need, and no release: texts of datasets stand there.
                copy = Path(aside) / found[0].task / model_folder(name) / path.name
                shutil.copyfile(instances_of(path), instances_of(copy))
        if not rows:
            known = f" It holds those of {', '.join(sorted(others))}." if others else ""
            raise UsageError(f"--results {measured.folder}: no result of this model's weights.{known}")
        if any(is_plotted(row.task, row.protocol) for row in rows):
            plot_all(Results(aside), folder / ASSETS)
    return rows


def stage_license(license: str, source: Path | None, folder: Path) -> None:
    """The licence's text: the source's own, or that of a licence whose text comes with this package."""
    known = _TEMPLATES / "licenses" / f"{license}.txt"
    for text in (known if source is None else source / LICENSE, known):
        if text.is_file():
            write_whole(folder / LICENSE, text.read_bytes())
            return


def write_card(
    folder: Path, name: str, tokenizer: PreTrainedTokenizerBase | None = None, tags: Sequence[str] = (), **told: Any
) -> None:
    """Writes the card of a staged model, the plot of its training, and its results in the Hub's newer form.

    Args:
        folder: with weights and configuration, and what training wrote about itself, if it is there.
        name: of the release.
        tokenizer: its tokenizer, where that is known.
        tags: further ones.
        **told: fields of `facts.ModelFacts` that no file in the folder tells.

    Raises:
        UsageError: the card is not what the Hub reads.
    """
    config = read_config(folder)
    training = folder / TRAINING
    stages = json.loads(training.read_text(encoding="utf-8")) if training.is_file() else None
    # A machine that trains need not have what plots are drawn with.
    can_plot = find_spec("matplotlib") is not None
    facts = ModelFacts(
        name=name,
        config=config,
        format="plain" if config["model_type"] == "modernbert" else "native",
        dtype=str(config.get("dtype", "float32")),
        tokenizer={}
        if tokenizer is None
        else {
            "vocabulary_size": len(tokenizer),
            "mask_token": tokenizer.mask_token,
            "model_max_length": tokenizer.model_max_length,
        },
        training=stages,
        recipe_file=RECIPE if (folder / RECIPE).is_file() else None,
        curve=plot_training(stages, folder) if stages and can_plot else None,
        plots=_pictures(folder),
        remarks=_remarks(folder),
        **told,
    )
    card = model_card(facts)
    card.data["tags"] = list(dict.fromkeys([*card.data["tags"], *tags]))
    for path, text in {CARD: str(card), **eval_result_files(facts)}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(folder / path, text)
    validate_card(card, folder)


def _remarks(folder: Path) -> tuple[str, ...]:
    from llm_jp_modernbert.training.run.averaging import PROVENANCE

    if not (folder / PROVENANCE).is_file():
        return ()
    parts = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    names = ", ".join(f"{part['name']} (step {part['step']})" for part in parts)
    return (f"Its weights are the mean of those of {len(parts)} checkpoints: {names}.",)


def _pictures(folder: Path) -> list[Plot]:
    names = sorted(path.name for path in (folder / ASSETS).glob("*.png") if f"{ASSETS}/{path.name}" != TRAINING_PLOT)
    return [Plot(f"{ASSETS}/{name}", name.removesuffix(".png").replace("-", " ")) for name in names]


def write_manifest(folder: Path) -> None:
    """Lists the files of a release with sizes and SHA-256 sums; to be called when all others are there."""
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }
    write_whole(folder / MANIFEST, json.dumps({"schema": 1, "files": files}, indent=1) + "\n")


def read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """The files that a manifest lists, by path.

    Raises:
        UsageError: it is none.
    """
    try:
        files: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["files"]
        if not all({"size", "sha256"} <= set(one) for one in files.values()):
            raise KeyError("size, sha256")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: no list of a release ({error}).") from error
    return files


def everyday_masks() -> list[str]:
    """The sentences, each with one `[MASK]`, that every release fills, for its card."""
    return (_TEMPLATES / "everyday_masks.txt").read_text(encoding="utf-8").splitlines()

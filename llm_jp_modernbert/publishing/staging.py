"""Contents of a release, written to a directory before anything is uploaded.

Weights in safetensors format, configuration, tokenizer, training recipe and log, results with plots, exports, license,
model card, and `release.json`, which lists all files with their SHA-256 sums. Staging the same inputs twice gives the
same bytes: no file contains a date.
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
from llm_jp_modernbert.core.files import files_by_path, read_config, read_json, sha256, write_whole
from llm_jp_modernbert.core.hub import TRAINING
from llm_jp_modernbert.core.references import is_local_path
from llm_jp_modernbert.evaluation.report.results import Results, Row, instances_of, model_folder, read_rows, write_rows
from llm_jp_modernbert.model_cards.card import eval_result_files, model_card
from llm_jp_modernbert.model_cards.check import validate_card
from llm_jp_modernbert.model_cards.facts import ModelFacts, Plot
from llm_jp_modernbert.model_cards.plots import PATH as TRAINING_PLOT
from llm_jp_modernbert.model_cards.plots import plot_training

from .options import DEFAULT_LICENSE as DEFAULT_LICENSE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MANIFEST = "release.json"
"""File of a release that lists the other files."""

RECIPE = "recipe.yaml"
RESULTS = "results"
ASSETS = "assets"
CARD = "README.md"
LICENSE = "LICENSE"

_TEMPLATES = files("llm_jp_modernbert.model_cards") / "templates"
# Recipe keys that hold paths on the training machine; only file names are published.
_PATH_KEYS = ("train_data", "validation_data", "tokenizer", "output_dir", "init_from", "resume_from_checkpoint")


def stage_training(source: Path, folder: Path) -> None:
    """Copies the training log, the recipe and the list of averaged checkpoints, without local paths."""
    from llm_jp_modernbert.training.run.averaging import PROVENANCE

    for name in (TRAINING, PROVENANCE, RECIPE):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    make_public(folder)


def make_public(folder: Path) -> None:
    """Reduces local paths in a staged recipe, if there is one, to their last part."""
    import yaml

    recipe = folder / RECIPE
    if not recipe.is_file():
        return
    settings = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    for key in _PATH_KEYS:
        # resume_from_checkpoint may be a boolean.
        if settings.get(key) not in (None, "", True, False):
            settings[key] = _public_name(settings[key])
    write_whole(recipe, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


def _public_name(value: Any) -> Any:
    if isinstance(value, list):
        return [_public_name(item) for item in value]
    if isinstance(value, Mapping):
        return {**value, "path": _public_name(value["path"])}
    return Path(str(value)).name if is_local_path(str(value)) else str(value)


def stage_results(measured: Results, belongs: Collection[str], name: str, folder: Path) -> list[Row]:
    """Copies the results of a model under its public name, and plots them.

    Args:
        measured: results of this and other models.
        belongs: values of `Row.revision` and `Row.model` that identify the model.
        name: name of the release.
        folder: the staged release.

    Raises:
        UsageError: the model has no results, or matplotlib is missing.
    """
    from llm_jp_modernbert.evaluation.plots import plot_all

    rows: list[Row] = []
    others: set[str] = set()
    with TemporaryDirectory() as temporary:
        for path in measured.files():
            measured_rows = read_rows(path)
            if not measured_rows:
                continue
            first = measured_rows[0]
            if not {first.revision, first.model} & set(belongs):
                others.add(first.model)
                continue
            public = [replace(row, model=name) for row in measured_rows]
            rows += public
            copy = Path(first.task) / model_folder(name) / path.name
            write_rows(folder / RESULTS / copy, public)
            write_rows(Path(temporary) / copy, public)
            if instances_of(path).is_file():
                # The plots need the examples; the release omits them, since they quote the datasets.
                shutil.copyfile(instances_of(path), instances_of(Path(temporary) / copy))
        if not rows:
            known = f" It holds results of {', '.join(sorted(others))}." if others else ""
            raise UsageError(f"--results {measured.folder}: no result of this model's weights.{known}")
        plot_all(Results(temporary), folder / ASSETS)
    return rows


def stage_license(license: str, source: Path | None, folder: Path) -> None:
    """Writes the text of the license: the source's own file, or the text in this package, if there is one."""
    template = _TEMPLATES / "licenses" / f"{license}.txt"
    for text in (template if source is None else source / LICENSE, template):
        if text.is_file():
            write_whole(folder / LICENSE, text.read_bytes())
            return


def write_card(
    folder: Path, name: str, tokenizer: PreTrainedTokenizerBase | None = None, tags: Sequence[str] = (), **fields: Any
) -> None:
    """Writes the card of a staged model, a plot of its training, and its results as `.eval_results` files.

    Args:
        folder: the staged model, with training log and recipe if they exist.
        name: name of the release.
        **fields: fields of `ModelFacts` that are not read from the folder.

    Raises:
        UsageError: the Hub would refuse the card's metadata.
    """
    from llm_jp_modernbert.training.run.averaging import PROVENANCE

    config = read_config(folder)
    stages = read_json(folder / TRAINING) if (folder / TRAINING).is_file() else None
    # matplotlib is optional on training machines.
    can_plot = find_spec("matplotlib") is not None
    tokenizer_facts: dict[str, Any] = {}
    if tokenizer is not None:
        tokenizer_facts = {
            "vocabulary_size": len(tokenizer),
            "mask_token": tokenizer.mask_token,
            "model_max_length": tokenizer.model_max_length,
        }
    remarks: tuple[str, ...] = ()
    if (folder / PROVENANCE).is_file():
        parts = read_json(folder / PROVENANCE)
        names = ", ".join(f"{part['name']} (step {part['step']})" for part in parts)
        remarks = (f"The weights are the mean of {len(parts)} checkpoints: {names}.",)
    facts = ModelFacts(
        name=name,
        config=config,
        format="plain" if config["model_type"] == "modernbert" else "native",
        dtype=str(config.get("dtype", "float32")),
        tokenizer=tokenizer_facts,
        training=stages,
        recipe_file=RECIPE if (folder / RECIPE).is_file() else None,
        curve=plot_training(stages, folder) if stages and can_plot else None,
        plots=[
            Plot(path.relative_to(folder).as_posix(), path.stem.replace("-", " "))
            for path in sorted((folder / ASSETS).glob("*.png"))
            if path != folder / TRAINING_PLOT
        ],
        remarks=remarks,
        **fields,
    )
    card = model_card(facts)
    card.data["tags"] = list(dict.fromkeys([*card.data["tags"], *tags]))
    for path, text in {CARD: str(card), **eval_result_files(facts)}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(folder / path, text)
    validate_card(card, folder)


def write_manifest(folder: Path) -> None:
    """Lists the files of a release with sizes and SHA-256 sums. Call it last."""
    files = {
        path: {"size": file.stat().st_size, "sha256": sha256(file)}
        for path, file in files_by_path(folder).items()
        if path != MANIFEST
    }
    write_whole(folder / MANIFEST, json.dumps({"schema": 1, "files": files}, indent=1) + "\n")


def read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """Reads the `size` and `sha256` of each file from a manifest; raises `UsageError` if it is not one."""
    try:
        files: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["files"]
        if not all({"size", "sha256"} <= set(entry) for entry in files.values()):
            raise KeyError("size, sha256")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: not the manifest of a release ({error}).") from error
    return files


def everyday_masks() -> list[str]:
    """Sentences with one `[MASK]` each, which every release fills for its card."""
    return (_TEMPLATES / "everyday_masks.txt").read_text(encoding="utf-8").splitlines()

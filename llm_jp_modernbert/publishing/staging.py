"""Contents of a release, written to a directory before anything is uploaded.

Weights in safetensors format, configuration, tokenizer, training recipe and log, results with plots, exports, license,
model card, and `release.json`, which lists all files with their SHA-256 sums. Staging the same inputs twice gives the
same bytes: no file contains a date.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from typing_extensions import NotRequired, TypedDict

from llm_jp_modernbert.adaptation.vocabulary import record as vocabulary
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import files_by_path, read_config, read_json, sha256, write_whole
from llm_jp_modernbert.core.hub import TRAINING
from llm_jp_modernbert.core.references import is_local_path, is_repository
from llm_jp_modernbert.core.results import Results, Row, instances_of, model_folder, read_rows, write_rows
from llm_jp_modernbert.core.terminal import ACCESS_TOKEN
from llm_jp_modernbert.core.yaml_files import read_yaml
from llm_jp_modernbert.model_cards import serving
from llm_jp_modernbert.model_cards.card import eval_result_files, model_card
from llm_jp_modernbert.model_cards.check import validate_card
from llm_jp_modernbert.model_cards.facts import ModelFacts, Plot, is_continued
from llm_jp_modernbert.model_cards.finetuned import CAPTIONS
from llm_jp_modernbert.model_cards.plots import plot_training
from llm_jp_modernbert.training.finetuning import record as finetuning
from llm_jp_modernbert.training.retrieval import record as retrieval
from llm_jp_modernbert.training.run import adaptation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

MANIFEST = "release.json"
"""File of a release that lists the other files."""

RECIPE = "recipe.yaml"
RESULTS = "results"
ASSETS = "assets"
CARD = "README.md"
LICENSE = "LICENSE"

# Records of jobs by field of `ModelFacts`, the last job first.
_RECORDS: dict[str, Any] = {
    "record": finetuning,
    "retrieval": retrieval,
    "vocabulary": vocabulary,
    "adaptation": adaptation,
}
RECORDS = tuple(module.RECORD for module in _RECORDS.values())
"""Files of the records of jobs."""

_TEMPLATES = files("llm_jp_modernbert.model_cards") / "templates"
# Value of a key that the user of a recipe must give.
_REQUIRED = "???"
# Files that hold no text.
_BINARY = (".safetensors", ".onnx", ".onnx_data", ".bin", ".png", ".model", ".arrow", ".parquet")
# Settings that are never published.
_SECRETS = ("hub_token", "push_to_hub_token")
# Files of a source whose content reaches the release.
_COPIED = (
    LICENSE,
    *("*.json", "*.yaml", "*.jinja", "*.model", "*.txt", "*.py"),
    "additional_chat_templates",
    "*/*.jinja",
    f"{ASSETS}/*.png",
    f"{RESULTS}/**/*.json",
)


class File(TypedDict):
    """Size in bytes and SHA-256 of a file of a release."""

    size: int
    sha256: str


class Manifest(TypedDict):
    """The content of `release.json`: the release's name (`ORG/NAME@REVISION`), and its files by path."""

    name: NotRequired[str]
    files: dict[str, File]


class _Averaged(TypedDict):
    """A checkpoint in `averaged_from.json`."""

    name: str
    step: int | None


def check_links(source: Path, patterns: Sequence[str] = _COPIED) -> None:
    """Raises `UsageError` for a symbolic link by which a file from elsewhere would be published."""
    root = Path(os.path.realpath(source))
    if root.parent.name == "snapshots":  # The Hub's cache links to blobs of the same repository.
        root = root.parents[1]
    for path in (path for pattern in patterns for path in source.glob(pattern)):
        if not Path(os.path.realpath(path)).is_relative_to(root):
            raise UsageError(f"{path}: a symbolic link to a file outside of {source}. Replace it by the file itself.")


def stage_training(source: Path, folder: Path, base: str | None = None) -> None:
    """Copies the training log, the recipe, the list of averaged checkpoints, and the records and plots of jobs,
    without local paths.
    """
    from llm_jp_modernbert.training.run.averaging import PROVENANCE

    if (source / PROVENANCE).is_file():
        _read_averaged(source / PROVENANCE)
    for name in (TRAINING, PROVENANCE, RECIPE, *RECORDS):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    if records(source):
        for plot in (source / ASSETS).glob("*.png"):
            (folder / ASSETS).mkdir(exist_ok=True)
            shutil.copyfile(plot, folder / ASSETS / plot.name)
    make_public(folder, base)


def stage_serving(source: Path, folder: Path) -> None:
    """Copies the record of `serve-check` to a staged model that equals the one that was checked."""
    if not (source / serving.RECORD).is_file():
        return
    shutil.copyfile(source / serving.RECORD, folder / serving.RECORD)
    if serving.read_record(folder) is None:
        (folder / serving.RECORD).unlink()
        logger.warning(
            "%s was measured with other files than those of this release, so the card omits it. Run serve-check on "
            "the staged release (--dry-run), and release that directory with the same options.",
            source / serving.RECORD,
        )


def records(folder: Path) -> dict[str, Any]:
    """The records of the jobs that made a model, by field of `ModelFacts`.

    Raises:
        UsageError: a record is not valid.
    """
    read = {name: module.read_record(folder) for name, module in _RECORDS.items()}
    return {name: record for name, record in read.items() if record is not None}


def last_record(folder: Path) -> Mapping[str, Any]:
    """The record of the last job that changed a model; empty without one."""
    return next(iter(records(folder).values()), {})


def is_recorded(folder: Path, row: Row) -> bool:
    """Whether a result is one of the values in a record of the model in a directory."""
    return any(
        module.is_recorded(record, row)
        for name, record in records(folder).items()
        if (module := _RECORDS[name]) in (finetuning, retrieval)
    )


def read_recipe(folder: Path) -> dict[str, Any]:
    """The recipe of a model; empty if it has none.

    Raises:
        UsageError: it is not a mapping.
    """
    path = folder / RECIPE
    settings = read_yaml(path) if path.is_file() else {}
    if not isinstance(settings, dict):
        raise UsageError(f"{path}: not a recipe. Remove it, or copy it again from the run directory.")
    return settings


def read_stages(folder: Path) -> Sequence[Mapping[str, Any]]:
    """The stages in the training log of a model; empty if it has none."""
    from llm_jp_modernbert.training.run.summary import read

    return read(folder / TRAINING)["stages"] if (folder / TRAINING).is_file() else []


def make_public(folder: Path, base: str | None = None) -> None:
    """Removes tokens from a staged recipe, if there is one, and reduces local paths to their last part.

    A local `init_from`, or `base` of a fine-tuning, is a required key in the published recipe unless its repository is
    known.

    Args:
        folder: the staged model.
        base: repository of the model that training started from.
    """
    import yaml

    recipe = folder / RECIPE
    if not recipe.is_file():
        return
    settings, stages = read_recipe(folder), read_stages(folder)
    start = str(settings.get("init_from") or "")
    logged = str(stages[-1].get("init_from", start)) if stages else start
    if start and (is_local_path(start) or not is_repository(logged.partition("@")[0])):
        settings["init_from"] = base if base and len(stages) == 1 else _REQUIRED
    if is_local_path(str(settings.get("base") or "")):
        settings["base"] = base or _REQUIRED
    write_whole(recipe, yaml.safe_dump(_public_value(settings), sort_keys=False, allow_unicode=True))


def _read_averaged(path: Path) -> list[_Averaged]:
    averaged: list[_Averaged] = read_json(path, list[_Averaged])
    return averaged


def _public_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_public_value(item) for item in value]
    if isinstance(value, dict):
        return {key: _public_value(item) for key, item in value.items() if key not in _SECRETS}
    return Path(value).name or value if isinstance(value, str) and is_local_path(value) else value


def check_secrets(folder: Path) -> None:
    """Raises `UsageError` if a text file of a staged release contains an access token of the Hub."""
    for path, file in files_by_path(folder).items():
        if file.suffix not in _BINARY and re.search(ACCESS_TOKEN.encode(), file.read_bytes()):
            raise UsageError(f"{path} contains an access token of the Hub (hf_…). Remove it from the source.")


def stage_results(
    measured: Results, belongs: Callable[[Row], bool], name: str, folder: Path, plotted: bool = True
) -> list[Row]:
    """Copies the results of a model under its public name, and plots them.

    Args:
        measured: results of this and other models.
        belongs: whether a row is a result of the model.
        name: name of the release.
        folder: the staged release.
        plotted: whether to plot them.

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
            if not belongs(first):
                others.add(first.model)
                continue
            public = [replace(row, model=name) for row in measured_rows]
            rows += public
            # Not `first.task`, which a results file of others can set to a path.
            copy = Path(path.parts[-3]) / model_folder(name) / path.name
            write_rows(folder / RESULTS / copy, public)
            write_rows(Path(temporary) / copy, public)
            if instances_of(path).is_file():
                # The plots need the examples; the release omits them, since they quote the datasets.
                shutil.copyfile(instances_of(path), instances_of(Path(temporary) / copy))
        if not rows:
            known = f" It holds results of {', '.join(sorted(others))}." if others else ""
            raise UsageError(f"{measured.folder}: no result of this model's weights.{known}")
        if plotted:
            plot_all(Results(temporary), folder / ASSETS)
    return rows


def stage_license(license: str | None, source: Path | None, folder: Path) -> None:
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

    config, stages = read_config(folder), read_stages(folder)
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
        parts = _read_averaged(folder / PROVENANCE)
        names = ", ".join(f"{part['name']} (step {part['step']})" for part in parts)
        remarks = (f"The weights are the mean of {len(parts)} checkpoints: {names}.",)
    curve = plot_training({"stages": stages}, folder) if stages and can_plot else None
    facts = ModelFacts(
        name=name,
        config=config,
        format="plain" if config["model_type"] == "modernbert" else "native",
        dtype=str(config.get("dtype", "float32")),
        tokenizer=tokenizer_facts,
        training={"stages": stages} if stages else None,
        is_continued=is_continued(stages, read_recipe(folder)),
        license_link=LICENSE if fields.get("license") == "other" and (folder / LICENSE).is_file() else None,
        recipe_file=RECIPE if (folder / RECIPE).is_file() else None,
        curve=curve,
        plots=[
            Plot(f"{ASSETS}/{path.name}", CAPTIONS.get(path.stem, path.stem.replace("-", " ")))
            for path in sorted((folder / ASSETS).glob("*.png"))
            if f"{ASSETS}/{path.name}" != curve
        ],
        remarks=remarks,
        recipe=read_recipe(folder),
        serving=serving.read_record(folder),
        **records(folder),
        **fields,
    )
    card = model_card(facts)
    card.data["tags"] = list(dict.fromkeys([*card.data["tags"], *tags]))
    for path, text in {CARD: str(card), **eval_result_files(facts)}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(folder / path, text)
    validate_card(card, folder)


def write_manifest(folder: Path, name: str | None = None) -> None:
    """Lists the files of a release with sizes and SHA-256 sums. Call it last.

    Args:
        name: `ORG/NAME@REVISION` of the release.
    """
    files = {
        path: {"size": file.stat().st_size, "sha256": sha256(file)}
        for path, file in files_by_path(folder).items()
        if path != MANIFEST
    }
    content = {"schema": 1, **({} if name is None else {"name": name}), "files": files}
    write_whole(folder / MANIFEST, json.dumps(content, indent=1) + "\n")


def read_manifest(path: Path) -> Manifest:
    """Reads the manifest of a release; raises `UsageError` if it is not one."""
    manifest: Manifest = read_json(path, Manifest)
    return manifest


def everyday_masks() -> list[str]:
    """Sentences with one `[MASK]` each, which every release fills for its card."""
    return (_TEMPLATES / "everyday_masks.txt").read_text(encoding="utf-8").splitlines()

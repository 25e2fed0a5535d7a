"""Validation of card metadata, as the Hub does it before a commit.

The rules and messages are those that users have reported:

* `dataset.type`: embeddings-benchmark/mteb, issue 1111.
* `language`: huggingface/huggingface_hub, issue 3862; jonatasgrosman/wav2vec2-sprint, issue 11.
* `license`: tests/test_repocard.py of huggingface_hub. Its list is docs/hub/repositories-licenses.md of hub-docs.
* `base_model` and `datasets`: huggingface/transformers, issue 32212; huggingface/autotrain-advanced, issue 648.
* `widget`: ostris/ai-toolkit, issue 260.
* Spaces: spaces-config-reference.md of huggingface/hub-docs.
* Required and optional fields of `model-index`: modelcard.md of huggingface/hub-docs.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

# Fields that are a string, a list of strings, or either.
_TEXTS = ("license", "license_name", "license_link", "library_name", "pipeline_tag", "pretty_name", "mask_token")
_LISTS = ("tags", "task_categories", "task_ids")
_LICENSES = (Path(__file__).parents[3] / "model_cards" / "templates" / "hub_licenses.txt").read_text("utf-8").split()
_DATASET_TYPE = re.compile(r"^(?:[\w-]+\/)?[\w\-.]+\Z", re.ASCII)
_REPOSITORY = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9_][\w.-]*", re.ASCII)
_COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
_EITHER = ("language", "datasets", "metrics", "base_model", "size_categories", "source_datasets")


def metadata(card: str) -> dict[str, Any]:
    """The YAML block at the start of a card; empty if there is none.

    Raises:
        ValueError: it is not valid YAML, or not a mapping.
    """
    match = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)(?:\r?\n)?---[ \t]*(?:\r?\n|$)", card, re.DOTALL)
    try:
        data = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError as error:
        raise ValueError(f"invalid YAML: {error}") from error
    if data is not None and not isinstance(data, dict):
        raise ValueError("metadata must be an object")
    return data or {}


def problems(card: str, kind: str) -> tuple[list[str], list[str]]:
    """Errors and warnings for the card of a model, dataset or Space."""
    try:
        data = metadata(card)
    except ValueError as error:
        return [str(error)], []
    if not data:
        return [], ["empty or missing yaml metadata in repo card"]
    errors = []
    for name in _TEXTS:
        if name in data and not isinstance(data[name], str):
            errors.append(f'"{name}" must be a string')
    for name in _LISTS:
        if name in data and not _texts(data[name]):
            errors.append(f'"{name}" must be an array of strings')
    for name in _EITHER:
        if name in data and not isinstance(data[name], str) and not _texts(data[name]):
            errors.append(f'"{name}" must be a string or an array of strings')
    errors += _values(data)
    if kind == "model" and "model-index" in data:
        errors += _index(data["model-index"])
    if kind == "space":
        _required(data, "card", ("title", "emoji", "colorFrom", "colorTo", "sdk"), errors)
        for name in ("colorFrom", "colorTo"):
            if data.get(name) not in _COLORS:
                errors.append(f'"{name}" must be one of [{", ".join(_COLORS)}]')
    if kind == "dataset" and "configs" in data:
        for place, config in _items(data["configs"], "configs", errors):
            _required(config, place, ("config_name",), errors)
    return errors, []


def _values(data: dict[str, Any]) -> list[str]:
    """Errors of values from a list, and of names of repositories."""
    errors = []
    if "license" in data and data["license"] not in _LICENSES:
        errors.append(f'"license" must be one of [{", ".join(_LICENSES)}]')
    for where, language in _each(data, "language"):
        if language != language.lower():
            errors.append(f'"{where}" must only contain lowercase characters')
        # `jp` is the country of the language `ja`.
        elif language == "jp" or not re.fullmatch("[a-z]{2,3}|code|multilingual", language):
            errors.append(f'"{where}" must be an ISO 639-1, 639-2 or 639-3 code')
    for name, kind in (("datasets", "dataset"), ("base_model", "model")):
        for where, repository in _each(data, name):
            if not _REPOSITORY.fullmatch(repository):
                place = "datasets" if kind == "dataset" else "models"
                errors.append(
                    f'"{where}" with value "{repository}" is not valid. Use a {kind} id from https://hf.co/{place}.'
                )
    if "widget" in data and not isinstance(data["widget"], list):
        errors.append('"widget" must be an array')
    return errors


def _each(data: dict[str, Any], name: str) -> list[tuple[str, str]]:
    value = data.get(name)
    if isinstance(value, str):
        return [(name, value)]
    return [(f"{name}[{index}]", text) for index, text in enumerate(value)] if _texts(value) else []


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _index(models: Any) -> list[str]:
    """Errors of a model-index: models with name and results; results with task, dataset and metrics."""
    errors: list[str] = []
    for where, model in _items(models, "model-index", errors):
        _required(model, where, ("name",), errors)
        for place, result in _items(model.get("results"), f"{where}.results", errors):
            for name, fields in (("task", ("type",)), ("dataset", ("type", "name"))):
                if isinstance(result.get(name), dict):
                    _required(result[name], f"{place}.{name}", fields, errors)
                else:
                    errors.append(f'"{place}.{name}" is required')
            errors += _dataset(result.get("dataset"), f"{place}.dataset")
            for spot, metric in _items(result.get("metrics"), f"{place}.metrics", errors):
                _required(metric, spot, ("type",), errors)
                _optional(metric, spot, ("name", "config"), errors)
                if metric.get("value") is None:
                    errors.append(f'"{spot}.value" is required')
    return errors


def _dataset(dataset: Any, place: str) -> list[str]:
    errors: list[str] = []
    if isinstance(dataset, dict):
        _optional(dataset, place, ("config", "split", "revision"), errors)
        kind = dataset.get("type")
        if isinstance(kind, str) and not _DATASET_TYPE.match(kind):
            pattern = r"/^(?:[\w-]+\/)?[\w-.]+$/"
            errors.append(f'"{place}.type" with value "{kind}" fails to match the required pattern: {pattern}')
    return errors


def _items(value: Any, where: str, errors: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """The objects in a list with their paths; other items are errors."""
    if not isinstance(value, list):
        errors.append(f'"{where}" must be an array')
        return []
    errors += [
        f'"{where}[{index}]" must be an object' for index, item in enumerate(value) if not isinstance(item, dict)
    ]
    return [(f"{where}[{index}]", item) for index, item in enumerate(value) if isinstance(item, dict)]


def _required(value: dict[str, Any], where: str, names: tuple[str, ...], errors: list[str]) -> None:
    errors += [f'"{where}.{name}" must be a string' for name in names if not isinstance(value.get(name), str)]
    errors += [f'"{where}.{name}" is not allowed to be empty' for name in names if value.get(name) == ""]


def _optional(value: dict[str, Any], where: str, names: tuple[str, ...], errors: list[str]) -> None:
    errors += [f'"{where}.{name}" must be a string' for name in names if not isinstance(value.get(name, ""), str)]

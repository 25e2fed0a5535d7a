"""Reading and offline validation of the metadata of cards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from llm_jp_modernbert.core.errors import UsageError, first_line
from llm_jp_modernbert.core.references import is_repository
from llm_jp_modernbert.core.yaml_files import parse_yaml

if TYPE_CHECKING:
    from huggingface_hub import DatasetCard, ModelCard


# The Hub's pattern of `dataset.type`, as quoted in github.com/embeddings-benchmark/mteb/issues/1111.
_DATASET_TYPE = re.compile(r"(?:[A-Za-z0-9_-]+/)?[A-Za-z0-9_.-]+")
# Codes that the Hub accepts in addition to those of ISO 639.
_OTHER_LANGUAGES = ("code", "multilingual")
# Characters of a card that are read.
_LONGEST = 1 << 20


def read_metadata(path: Path) -> dict[str, Any]:
    """Reads the metadata of a card; empty if it has none.

    Raises:
        UsageError: they are not valid YAML, or larger than those of any card.
    """
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    with path.open(encoding="utf-8", errors="replace") as file:
        block = REGEX_YAML_BLOCK.search(file.read(_LONGEST))
    data = parse_yaml(block[2], str(path)) if block else None
    return data if isinstance(data, dict) else {}


def text(metadata: Mapping[str, Any], name: str) -> str | None:
    """A field that is a string; None if it is missing or of another type."""
    value = metadata.get(name)
    return value if value and isinstance(value, str) else None


def texts(metadata: Mapping[str, Any], name: str) -> list[str]:
    """A field that is a string or a list of strings; other items are left out."""
    value = metadata.get(name)
    return [item for item in (value if isinstance(value, list) else [value]) if item and isinstance(item, str)]


def is_license(name: str) -> bool:
    """Whether the Hub accepts a license id."""
    return name in _listed("hub_licenses.txt")


def is_language(code: str) -> bool:
    """Whether the Hub accepts a language code.

    It accepts those of ISO 639-1, 639-2 and 639-3: github.com/huggingface/huggingface_hub/issues/3862.
    """
    return code in (*_OTHER_LANGUAGES, *_listed("hub_languages.txt")) or bool(re.fullmatch("[a-z]{3}", code))


def validate_card(card: ModelCard | DatasetCard, folder: Path) -> None:
    """Check the card of a model or dataset without network access; `ModelCard.validate` asks the Hub.

    Raises:
        UsageError: the metadata cannot be parsed, contain a value that the Hub rejects, or a file that the card links
            to is not in `folder`.
    """
    from markdown_it import MarkdownIt

    data = _parsed_metadata(card)
    _check_license(data, folder)
    _check_names(data)
    for model in data.get("model-index") or []:
        for result in model["results"]:
            dataset = result["dataset"]["type"]
            if not _DATASET_TYPE.fullmatch(dataset):
                raise UsageError(
                    f"README.md: invalid dataset type {dataset!r} of a result; expected ORG/NAME, or letters, "
                    "digits, '.', '_' and '-'."
                )
    for block in MarkdownIt("commonmark").enable("table").parse(card.text):
        for token in block.children or []:
            _check_link(str(token.attrGet("href") or token.attrGet("src") or ""), folder)


def _check_license(data: Mapping[str, Any], folder: Path) -> None:
    license = data.get("license")
    if license is not None and not is_license(license):
        raise UsageError(
            f"README.md: unknown license {license!r}. Use an id of "
            "https://huggingface.co/docs/hub/repositories-licenses, such as apache-2.0, or other."
        )
    _check_link(str(data.get("license_link") or ""), folder)


def _check_names(data: Mapping[str, Any]) -> None:
    """Check languages, and the names of datasets and base models."""
    for language in texts(data, "language"):
        if not is_language(language):
            raise UsageError(f"README.md: invalid language {language!r}; expected an ISO 639 code such as ja.")
    # A local path is rejected: github.com/huggingface/transformers/issues/32212, autotrain-advanced/issues/648.
    for repository in (*texts(data, "datasets"), *texts(data, "base_model")):
        if not is_repository(repository):
            raise UsageError(f"README.md: invalid repository name {repository!r}; expected ORG/NAME.")


def _check_link(address: str, folder: Path) -> None:
    target = urlsplit(address)
    linked = (folder / unquote(target.path)).resolve()
    is_local = target.path and not target.scheme and not target.netloc
    if is_local and not (linked.is_relative_to(folder.resolve()) and linked.exists()):
        raise UsageError(f"README.md: links to {unquote(target.path)}, which is not in the release.")


def _listed(name: str) -> list[str]:
    return files("llm_jp_modernbert.model_cards").joinpath("templates", name).read_text("utf-8").split()


def _parsed_metadata(card: ModelCard | DatasetCard) -> dict[str, Any]:
    """The metadata as the Hub parses them."""
    from huggingface_hub.repocard_data import model_index_to_eval_results

    try:
        parsed = type(card)(str(card))
        data: dict[str, Any] = parsed.data.to_dict()
        if data.get("model-index"):
            model_index_to_eval_results(data["model-index"])
    except Exception as error:
        raise UsageError(f"README.md: metadata cannot be parsed ({first_line(error)}).") from error
    if data != card.data.to_dict() or parsed.text != card.text:
        raise UsageError("README.md: parsing changes the content. Remove unusual characters from names.")
    return data

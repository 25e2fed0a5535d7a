"""Offline validation of model cards."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from llm_jp_modernbert.core.errors import UsageError, first_line

if TYPE_CHECKING:
    from huggingface_hub import ModelCard


def validate_card(card: ModelCard, folder: Path) -> None:
    """Check a card without network access; `ModelCard.validate` asks the Hub.

    Raises:
        UsageError: the metadata cannot be parsed, contain a license, language or repository name that the Hub rejects,
            or a file that the card links to is not in `folder`.
    """
    from markdown_it import MarkdownIt

    data = _parsed_metadata(card)
    licenses = (
        files("llm_jp_modernbert.model_cards").joinpath("templates", "hub_licenses.txt").read_text("utf-8").split()
    )
    if data.get("license") not in licenses:
        raise UsageError(
            f"model card: unknown license {data.get('license')!r}. Use an id of "
            "https://huggingface.co/docs/hub/repositories-licenses, such as apache-2.0, or other."
        )
    for language in data.get("language") or []:
        if not re.fullmatch("[a-z]{2,3}", str(language)):
            raise UsageError(f"model card: invalid language {language!r}; expected an ISO 639 code such as ja.")
    base = data.get("base_model") or []
    for repository in [*(data.get("datasets") or []), *([base] if isinstance(base, str) else base)]:
        if not is_repository(repository):
            raise UsageError(f"model card: invalid repository name {repository!r}; expected ORG/NAME.")
    for block in MarkdownIt("commonmark").enable("table").parse(card.text):
        for token in block.children or []:
            target = urlsplit(str(token.attrGet("href") or token.attrGet("src") or ""))
            linked = (folder / unquote(target.path)).resolve()
            local = target.path and not target.scheme and not target.netloc
            if local and not (linked.is_relative_to(folder.resolve()) and linked.exists()):
                raise UsageError(f"model card: links to {unquote(target.path)}, which is not in the release.")


def _parsed_metadata(card: ModelCard) -> dict[str, Any]:
    """The metadata as the Hub parses them."""
    from huggingface_hub import ModelCard
    from huggingface_hub.repocard_data import model_index_to_eval_results

    try:
        parsed = ModelCard(str(card))
        data: dict[str, Any] = parsed.data.to_dict()
        if data.get("model-index"):
            model_index_to_eval_results(data["model-index"])
    except Exception as error:
        raise UsageError(f"model card: metadata cannot be parsed ({first_line(error)}).") from error
    if data != card.data.to_dict() or parsed.text != card.text:
        raise UsageError("model card: parsing changes the content. Remove unusual characters from names.")
    return data


def is_repository(name: str) -> bool:
    """Whether the Hub accepts `ORG/NAME` as the name of a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name

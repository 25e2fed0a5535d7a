"""Whether a model card is what the Hub reads, before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from llm_jp_modernbert.core.errors import UsageError

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

_LANGUAGE = re.compile(r"[a-z]{2,3}")

# Of https://huggingface.co/docs/hub/repositories-licenses, one a line.
_LICENSES = "hub_licenses.txt"


def validate_card(card: ModelCard, folder: Path) -> None:
    """Checks a card without asking the Hub.

    Args:
        card: as it would be sent.
        folder: the release, in which the files that the card points to have to be.

    Raises:
        UsageError: the metadata do not read back, name a licence, language or repository that the Hub would refuse,
            or the text points to a file that is not there.
    """
    from huggingface_hub import ModelCard
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.repocard_data import model_index_to_eval_results
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        again = ModelCard(str(card))
        data: dict[str, Any] = again.data.to_dict()
        if data.get("model-index"):
            model_index_to_eval_results(data["model-index"])
    except Exception as error:
        raise UsageError(f"model card: its metadata cannot be read back ({_line(error)}).") from error
    if data != card.data.to_dict() or again.text != card.text:
        raise UsageError(
            "model card: what is read back is not what was written. Take unusual characters out of names."
        )
    known = files("llm_jp_modernbert.model_cards").joinpath("templates", _LICENSES).read_text("utf-8").split()
    if data.get("license") not in known:
        raise UsageError(
            f"model card: licence {data.get('license')!r} is none that the Hub knows. Take one of "
            "https://huggingface.co/docs/hub/repositories-licenses, such as apache-2.0, or other."
        )
    for language in data.get("language") or []:
        if not _LANGUAGE.fullmatch(str(language)):
            raise UsageError(f"model card: language {language!r} is no ISO 639 code of two or three letters.")
    base = data.get("base_model") or []
    for repository in [*(data.get("datasets") or []), *([base] if isinstance(base, str) else base)]:
        try:
            validate_repo_id(repository)
        except HFValidationError as error:
            raise UsageError(f"model card: {repository!r} is no name of a repository (ORG/NAME).") from error
    for address in _addresses(card.text):
        parts = urlsplit(address)
        if parts.scheme or parts.netloc or not parts.path:
            continue
        path = (folder / unquote(parts.path)).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.exists():
            raise UsageError(f"model card: it points to {unquote(parts.path)}, which is not in the release.")


def _addresses(body: str) -> Iterator[str]:
    """Where the links and images of a text point to."""
    from markdown_it import MarkdownIt

    for block in MarkdownIt("commonmark").enable("table").parse(body):
        for token in block.children or []:
            for name in ("href", "src"):
                if token.attrGet(name):
                    yield str(token.attrGet(name))


def _line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

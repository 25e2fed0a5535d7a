"""A Hugging Face Space that starts the demo with a released model."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from llm_jp_modernbert.core import hub
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import atomic_directory, files_by_path, write_whole
from llm_jp_modernbert.core.hub_errors import one_line_errors

from . import staging

if TYPE_CHECKING:
    from huggingface_hub import HfApi

GRADIO = "6.31.0"
"""Version that the Hub installs in the Space; the extra `demo` requires the same series."""

_APP = "app.py"
_REQUIREMENTS = "requirements.txt"
_FILES = (_APP, _REQUIREMENTS, staging.CARD)
_CARD = """---
{metadata}
---

# {name}

Try [{name}](https://huggingface.co/{name}) in the browser: fill masks, see tokens, search a document, colour a text by
its pseudo-perplexity, and compare sentences.

[{name}](https://huggingface.co/{name}) をブラウザで試せます。
穴埋め、トークンの表示、文書の検索、疑似パープレキシティの可視化、文の類似度の比較ができます。
"""


def write_space(folder: Path, release: Path, model: str, license: str | None) -> None:
    """Writes the files of a Space.

    Args:
        folder: an empty directory.
        release: the staged release, whose results become the leaderboard.
        model: `ORG/NAME` or `ORG/NAME@REVISION`.
        license: license identifier of the model.
    """
    from huggingface_hub import SpaceCardData

    name, arguments = model.partition("@")[0], json.dumps([model])
    if (release / staging.RESULTS).is_dir():
        shutil.copytree(release / staging.RESULTS, folder / staging.RESULTS)
        arguments += f', Path(__file__).with_name("{staging.RESULTS}")'
    imports = "from pathlib import Path\n\n" if "Path" in arguments else ""
    write_whole(
        folder / _APP,
        f"{imports}from llm_jp_modernbert.demo.app import launch\n\n"
        f"application, address = launch({arguments})\napplication.block_thread()\n",
    )
    write_whole(folder / _REQUIREMENTS, f"llm-jp-modernbert[demo]>={version('llm-jp-modernbert')}\n")
    metadata = SpaceCardData(
        title=name.rpartition("/")[2],
        sdk="gradio",
        sdk_version=GRADIO,
        app_file=_APP,
        license=license,
        models=[name],
        # Required by the Hub for the Space's thumbnail (huggingface.co/docs/hub/spaces-config-reference).
        emoji="🗾",
        colorFrom="indigo",
        colorTo="blue",
    )
    write_whole(folder / staging.CARD, _CARD.format(metadata=metadata.to_yaml(), name=name))


def folder_beside(dry_run: Path) -> Path:
    """The directory of the Space of a dry run."""
    return dry_run.with_name(f"{dry_run.name}-space")


def stage_beside(dry_run: Path, release: Path, model: str, license: str | None) -> None:
    """Writes the Space of a dry run next to the release; replaces that of an earlier dry run.

    Raises:
        UsageError: the directory holds other files.
    """
    target = folder_beside(dry_run)
    existing = files_by_path(target) if target.is_dir() else {}
    added = [path for path in existing if path not in _FILES and not _is_result(path)]
    if added:
        raise UsageError(f"{target} holds {added[0]}, which no release wrote. Name another directory with --dry-run.")
    with atomic_directory(target, replace=bool(existing)) as folder:
        write_space(folder, release, model, license)


def send_space(api: HfApi, folder: Path, space: str, private: bool, patience: hub.Patience) -> hub.Committed:
    """Uploads the files of a Space in one commit; creates the Space if it is missing.

    Raises:
        UsageError: the Hub refuses the upload or is unreachable.
    """
    with one_line_errors(space):
        hub.create_repository(api, space, private or None, "space", patience)
        return hub.commit_folder(api, folder, space, kind="space", replaced=_is_result, patience=patience)


def _is_result(path: str) -> bool:
    return path.startswith(f"{staging.RESULTS}/")

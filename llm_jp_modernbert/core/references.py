"""Names of models, tokenizers and datasets: a local path, a repository, or a repository at a revision."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .checkpoint_names import CheckpointName
from .errors import UsageError


def is_local_path(text: str) -> bool:
    """Whether a name is a path on this machine rather than a repository of the Hub.

    It is one if it exists, starts (`.`, `/`, `~`) or ends (`/`) like a path, or has more slashes than `ORG/NAME`.
    """
    if os.path.exists(os.path.expanduser(text)):
        return True
    return text.startswith((".", "/", "~")) or text.endswith("/") or text.partition("@")[0].count("/") > 1


def is_repository(name: str) -> bool:
    """Whether the Hub accepts `ORG/NAME` as the name of a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


@dataclass(frozen=True)
class ModelReference:
    """A parsed name: a path, with `~` expanded, or `ORG/NAME` and its branch, tag or commit if one is given.

    Example:
        >>> ModelReference.parse("llm-jp/llm-jp-modernbert-base@main")
        ModelReference(name='llm-jp/llm-jp-modernbert-base', revision='main')
    """

    name: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str, revision: str | None = None) -> ModelReference:
        """Splits `ORG/NAME@REVISION`; a local path stays whole. The revision may also be given apart from the name.

        Raises:
            UsageError: two different revisions, or a revision of a local path.
        """
        if is_local_path(text):
            if revision is not None:
                raise UsageError(f"{text} is a local path and has no revision {revision!r}. Name a repository.")
            return cls(os.path.expanduser(text))
        name, _, named = text.partition("@")
        if named and revision not in (None, named):
            raise UsageError(f"{text} names revision {named!r}, but --revision says {revision!r}. Give one of them.")
        return cls(name, named or revision)

    @property
    def is_local(self) -> bool:
        """Whether the name is a path on this machine."""
        return is_local_path(self.name)

    @property
    def path(self) -> Path:
        """The name as a path; only meaningful if `is_local`."""
        return Path(self.name)

    def check_model(self) -> None:
        """Raises `UsageError` if a local path is not a directory with a config.json."""
        if not self.is_local:
            return
        if self.path.is_file():
            raise UsageError(f"{self.name} is a file. Name the directory that holds config.json and the weights.")
        if not self.path.is_dir():
            raise UsageError(f"{self.name}: no such directory. Name a model's directory or its repository (ORG/NAME).")
        if not (self.path / "config.json").is_file():
            checkpoints = [file.parent for file in self.path.glob("checkpoint-*/config.json")]
            steps = {name.step: path for path in checkpoints if (name := CheckpointName.parse(path.name)) is not None}
            way_out = f"Name its newest checkpoint, {steps[max(steps)]}." if steps else "Name a directory that does."
            raise UsageError(f"{self.name} holds no config.json, so it is not a model. {way_out}")

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"

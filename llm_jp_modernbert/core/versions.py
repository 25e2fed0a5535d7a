"""Versions of installed libraries, for run directories and results."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version


def library_versions(libraries: Iterable[str]) -> dict[str, str]:
    """The installed versions by library; libraries that are not installed are omitted."""
    versions = {}
    for library in libraries:
        with suppress(PackageNotFoundError):
            versions[library] = version(library)
    return versions

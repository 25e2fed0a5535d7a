"""Versions of libraries, for what is written down of a run or a result."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version


def library_versions(libraries: Iterable[str]) -> dict[str, str]:
    """The versions of those libraries that are installed, by name."""
    found = {}
    for library in libraries:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found

"""Errors of single models and tasks, which do not end the measurement of the others."""

from __future__ import annotations

import logging

from llm_jp_modernbert.core.errors import UsageError, describe, first_line, is_failed_write

logger = logging.getLogger(__name__)


class Failures:
    """The errors of a call; equal errors are reported once."""

    def __init__(self) -> None:
        self._places: dict[str, list[str]] = {}

    def add(self, place: str, error: Exception) -> None:
        """Records the error of a measurement, for example of `jsts of my-model`."""
        known = isinstance(error, (UsageError, OSError)) or is_failed_write(error)
        reason = describe(error) if known else f"{type(error).__name__}: {first_line(error)}"
        logger.warning("%s failed; the error is reported at the end.", place)
        logger.debug("Traceback of the failure", exc_info=error)
        self._places.setdefault(reason, []).append(place)

    @property
    def reasons(self) -> list[str]:
        """The different errors, each with the measurements that it ended."""
        return [f"{', '.join(places)}: {reason}" for reason, places in self._places.items()]

    def raise_any(self, what: str) -> None:
        """Reports all errors in one line.

        Args:
            what: name of what failed, in the plural.

        Raises:
            UsageError: there are errors.
        """
        if self._places:
            raise UsageError(f"{sum(map(len, self._places.values()))} {what} failed: {' '.join(self.reasons)}")

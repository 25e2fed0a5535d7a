"""Failures that a test requests."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field

_WAYS = ("cut", "cut-body", "lost", "corrupt", "slow")


@dataclass
class Fault:
    """Makes matching requests fail.

    Args:
        method, path: regular expressions.
        how: a status, or a kind of failure in the package's docstring.
        times: number of failures; None for no limit.
        after: number of matching requests that succeed before.
        headers: headers of the response, if `how` is a status.
        content: content of that response; by default a message in JSON.
        seconds: duration of each wait, if `how` is "slow".
    """

    method: str
    path: str
    how: int | str
    times: int | None = 1
    after: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.1
    content: bytes | None = None
    happened: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.how, int) and self.how not in _WAYS:
            raise ValueError(f"how: {self.how!r} is neither a status nor one of {', '.join(_WAYS)}")

    @property
    def left(self) -> int:
        """Number of pending failures; without a limit, 1 until the first one."""
        return int(self.happened == 0) if self.times is None else self.times - self.happened

    def strikes(self, method: str, path: str) -> bool:
        """Whether a request fails; counts the request."""
        if self.happened == self.times or not re.fullmatch(self.method, method) or not re.search(self.path, path):
            return False
        if self.after > 0:
            self.after -= 1
            return False
        self.happened += 1
        return True


class Faults:
    """The faults of a server, oldest first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        """Adds a fault."""
        with self._lock:
            self._all.append(fault)
        return fault

    def clear(self) -> None:
        """Removes all faults."""
        with self._lock:
            self._all.clear()

    def left(self) -> int:
        """Number of pending failures."""
        with self._lock:
            return sum(fault.left for fault in self._all)

    def strike(self, method: str, path: str) -> Fault | None:
        """The fault that a request meets, if any."""
        with self._lock:
            return next((fault for fault in self._all if fault.strikes(method, path)), None)

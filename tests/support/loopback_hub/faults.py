"""What a test wants to go wrong, and when."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field

_WAYS = ("cut", "cut-body", "lost", "corrupt", "slow")


@dataclass
class Fault:
    """Hits requests that match, after some and a number of times.

    Args:
        method, path: regular expressions.
        how: a status, or one of the ways that the package's docstring lists.
        times: how often; None for always.
        after: how many matching requests pass before.
        headers: of the answer, where `how` is a status.
        seconds: each wait, where it is "slow".
    """

    method: str
    path: str
    how: int | str
    times: int | None = 1
    after: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.1
    happened: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.how, int) and self.how not in _WAYS:
            raise ValueError(f"how: {self.how!r} is neither a status nor one of {', '.join(_WAYS)}")

    @property
    def left(self) -> int:
        """How many hits are still to come; of a fault that goes on, whether it has ever hit."""
        return int(self.happened == 0) if self.times is None else self.times - self.happened

    def strikes(self, method: str, path: str) -> bool:
        """Whether a request is hit; counts it."""
        if self.happened == self.times or not re.fullmatch(self.method, method) or not re.search(self.path, path):
            return False
        if self.after > 0:
            self.after -= 1
            return False
        self.happened += 1
        return True


class Faults:
    """The faults of a server, in the order they were made."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        """Takes another one."""
        with self._lock:
            self._all.append(fault)
        return fault

    def clear(self) -> None:
        """Takes all away."""
        with self._lock:
            self._all.clear()

    def left(self) -> int:
        """How many hits are still to come."""
        with self._lock:
            return sum(fault.left for fault in self._all)

    def strike(self, method: str, path: str) -> Fault | None:
        """The fault that hits a request."""
        with self._lock:
            return next((fault for fault in self._all if fault.strikes(method, path)), None)

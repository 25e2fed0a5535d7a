"""Ctrl-C that is not lost.

An exception that a signal handler raises while Python runs a finaliser or a callback of C code is printed and
discarded, and the program continues. `Interrupts` therefore records the signal, and raises again at the next check.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interrupts:
    """Context manager that listens for SIGINT; does nothing outside the main thread."""

    _received = False
    _previous: Any = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def check(self) -> None:
        """To be called regularly.

        Raises:
            KeyboardInterrupt: SIGINT was received.
        """
        if self._received:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._received = True
        raise KeyboardInterrupt

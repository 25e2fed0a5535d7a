"""Ctrl-C that is not lost.

An exception that a signal's handler raises while Python runs a finaliser or a callback of C code is printed and
forgotten, and long work would go on. So it is noted as well, and raised anew by whoever next looks.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interrupts:
    """Listens for SIGINT; a context manager. In a thread that may not, it does nothing."""

    def __init__(self) -> None:
        self._received = False
        self._before: Any = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def check(self) -> None:
        """To be called now and then.

        Raises:
            KeyboardInterrupt: there was a SIGINT.
        """
        if self._received:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = True
        raise KeyboardInterrupt

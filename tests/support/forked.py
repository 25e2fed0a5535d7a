"""A command in a forked process, without the seconds in which a new one imports torch.

with forked("tokenize-corpus", …) as running:
    running.send_signal(signal.SIGINT)
    completed = running.wait()
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from subprocess import CompletedProcess
from typing import Any

from llm_jp_modernbert import cli


@dataclass(frozen=True)
class Running:
    """A command that was started.

    Attributes:
        outputs: file descriptors of its standard output and standard error.
    """

    process: BaseProcess
    outputs: tuple[int, int]

    @property
    def pid(self) -> int:
        return self.process.pid or 0

    def is_alive(self) -> bool:
        return self.process.is_alive()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float = 600) -> CompletedProcess[str]:
        """Waits for the end and returns the exit code and the output."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"still running after {timeout} s"
        output, errors = (os.pread(descriptor, 1 << 24, 0).decode() for descriptor in self.outputs)
        return CompletedProcess([], self.process.exitcode, output, errors)


@contextmanager
def forked(*arguments: object, main: Callable[[], object] = cli.main, own_group: bool = False) -> Iterator[Running]:
    """Starts a command, and kills it at the end of the context.

    Args:
        arguments: those of the command.
        main: function of the command, by default `llm-jp-modernbert`.
        own_group: whether the process leads a group, as a terminal starts it.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        outputs = (output.fileno(), errors.fileno())
        process = multiprocessing.get_context("fork").Process(target=_run, args=(main, arguments, outputs, own_group))
        process.start()
        try:
            yield Running(process, outputs)
        finally:
            process.kill()
            process.join()


def run_forked(*arguments: object, main: Callable[[], object] = cli.main) -> CompletedProcess[str]:
    """Runs a command to its end."""
    with forked(*arguments, main=main) as running:
        return running.wait()


def stopping_after_a_shard() -> None:
    """The command line in a process that stops, as after SIGSTOP, when it has written a file `*.arrow`."""
    replace = os.replace

    def replace_and_stop(source: Any, target: Any) -> None:
        replace(source, target)
        if str(target).endswith(".arrow"):
            os.replace = replace
            os.kill(os.getpid(), signal.SIGSTOP)

    os.replace = replace_and_stop
    cli.main()


def _run(main: Callable[[], object], arguments: tuple[object, ...], outputs: tuple[int, int], own_group: bool) -> None:
    if own_group:
        os.setpgid(0, 0)
    for descriptor, output in enumerate(outputs, 1):
        os.dup2(output, descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
    sys.argv = ["command", *map(str, arguments)]
    # Those of pytest.
    logging.getLogger().handlers.clear()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()

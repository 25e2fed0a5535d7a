"""The process in which the parts of the GPU benchmark run, so that none of them can end the others."""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

from .gpu_run import Row, Run

Part = Callable[[Run], Iterator[Row]]


class Worker:
    """Runs parts in a process, which is replaced after a crash, a GPU error or a hang. Used in a `with` block.

    Args:
        shape, device, compiled: arguments of `Run`.
    """

    def __init__(self, shape: str, device: str, compiled: bool) -> None:
        self._arguments = (shape, device, compiled)
        self._process: multiprocessing.process.BaseProcess | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def rows(self, part: Part, deadline: float, limit: float) -> Iterator[Row]:
        """Yield the rows of a part; a part that fails adds a row with the reason.

        Args:
            part: function of the part; a function of a module.
            deadline: when the part must end by itself, on the clock of `time.perf_counter`.
            limit: when it is ended.
        """
        if self._process is None:
            # A forked process could not use CUDA.
            context = multiprocessing.get_context("spawn")
            self._connection, other = context.Pipe()
            self._process = context.Process(target=_work, args=(other, *self._arguments))
            self._process.start()
            other.close()
        try:
            self._connection.send((part, deadline))
            while self._connection.poll(max(0.0, limit - time.perf_counter())):
                row = self._connection.recv()
                if row is None:
                    return
                yield row
            reason = "out of time"
        except (EOFError, ConnectionError):
            self._process.join()
            reason = f"the process ended with exit code {self._process.exitcode}"
        self._end()
        yield {"failed": reason}

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


def _work(connection: Connection, shape: str, device: str, compiled: bool) -> None:
    run = Run(shape, device, compiled)
    while True:
        try:
            part, run.deadline = connection.recv()
        except EOFError:
            return
        try:
            for row in part(run):
                connection.send(row)
        except Exception as error:
            connection.send({"failed": f"{type(error).__name__}: {str(error).strip()[:200]}"})
            traceback.print_exc(limit=-3)
        # Raises if the GPU is unusable for this process, as after an illegal memory access.
        run.synchronize()
        run.free()
        connection.send(None)

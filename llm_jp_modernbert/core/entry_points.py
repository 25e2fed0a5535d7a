"""Jobs that also run as `python -m llm_jp_modernbert.<module>`, for `accelerate launch -m`."""

from __future__ import annotations

import runpy
import sys


def run_command(name: str) -> None:
    """Runs a command such as `pretrain` with the arguments of this process.

    The command line is started as a program, not imported, so that a job module depends on no higher layer.
    """
    sys.argv[1:1] = [name]
    runpy.run_module("llm_jp_modernbert", run_name="__main__")


def end_processes() -> None:
    """Ends the connection of the processes of a job.

    A rank that ends while others are connected to it can abort, and the launcher then ends the others as well.
    """
    from accelerate import PartialState

    state = PartialState()
    state.wait_for_everyone()
    state.destroy_process_group()

"""Names of training checkpoints, as directories, revisions and result labels write them."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = re.compile(r"(?P<origin>.*[/@])?(?:(?P<stage>.+?)-)??(?:step-)?(?P<number>\d+)(?P<thousands>k?)")


@dataclass(frozen=True)
class CheckpointName:
    """A parsed checkpoint name.

    Attributes:
        origin: everything up to the last `/` or `@`, such as `ORG/NAME@`; may be empty.
        stage: the word before the step, such as `stage1` or `checkpoint`; may be empty.

    Example:
        >>> CheckpointName.parse("org/name@stage2-200k")
        CheckpointName(origin='org/name@', stage='stage2', step=200000)
    """

    origin: str
    stage: str
    step: int

    @classmethod
    def parse(cls, text: str) -> CheckpointName | None:
        """Reads `checkpoint-200`, `stage1-step-500` or `org/name@15000`; None if the text does not end in a step."""
        match = _NAME.fullmatch(text)
        if match is None:
            return None
        step = int(match["number"]) * (1000 if match["thousands"] else 1)
        return cls(match["origin"] or "", match["stage"] or "", step)

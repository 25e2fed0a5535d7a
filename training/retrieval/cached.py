"""Results that an interrupted training does not compute again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from llm_jp_modernbert.core.files import read_json, write_whole

_MOST_BYTES = 2**30


class _Results(TypedDict):
    """Numbers, and a hash of everything that they follow from."""

    inputs: str
    values: list[list[float]]


def cached(path: Path, inputs: Any, compute: Callable[[], Sequence[Sequence[float]]]) -> list[list[float]]:
    """The result of a computation, from a file if it was computed before from the same inputs.

    Args:
        path: file of the result.
        inputs: everything that the result follows from, as JSON values.
        compute: computes lists of numbers.
    """
    key = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
    if path.is_file():
        results: _Results = read_json(path, _Results, max_bytes=_MOST_BYTES)
        if results["inputs"] == key:
            return results["values"]
    values = [list(row) for row in compute()]
    write_whole(path, json.dumps({"inputs": key, "values": values}))
    return values

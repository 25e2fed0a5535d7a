"""`serve-check`: compares a model in every installed runtime with torch, and records the result in its directory."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import lock, read_json, write_json
from llm_jp_modernbert.model_cards.serving import RECORD, Record, Row, Status, measured_files

from .inputs import Inputs, make_inputs
from .options import ServeCheckOptions
from .runtimes import RUNTIMES, Runtime

logger = logging.getLogger(__name__)

_PROBES = Path(__file__).with_name("probes")
_SEND_IDS = "Send it the token ids of Python's tokenizer in place of such texts."


@dataclass(frozen=True)
class _Result:
    """Result of a probe.

    Attributes:
        reason: why it computed nothing.
        fix: the way out, if it is not that of the runtime.
        outputs: with status `ok`, outputs by name, an array or None for each text.
        left_out: why an output is None for some texts, by name.
    """

    status: Status
    version: str = ""
    reason: str = ""
    fix: str = ""
    outputs: Mapping[str, Sequence[np.ndarray | None]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


def serve_check(options: ServeCheckOptions) -> Record:
    """Compares a model's outputs in each runtime with torch's, and writes `serving.json` into its directory.

    Raises:
        UsageError: the directory holds no model, or an interpreter or a runtime is unknown.
    """
    folder = options.folder
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such directory. Name the directory of a release or a saved model.")
    runtimes = _selected(options.runtimes)
    interpreters = list(dict.fromkeys([sys.executable, *map(str, options.pythons)]))
    for python in interpreters:
        if shutil.which(python) is None:
            raise UsageError(f"--python {python}: no such interpreter. Name the bin/python of an environment.")
    with lock(folder / RECORD, "serve-check"), TemporaryDirectory() as temporary:
        logger.info("%s: computing ten texts with torch", folder)
        inputs = make_inputs(folder)
        request = Path(temporary) / "request.json"
        request.write_text(json.dumps(inputs.request), encoding="utf-8")
        rows: list[Row] = []
        for runtime in runtimes:
            results = []
            for python in interpreters if runtime.is_python else ["node"]:
                logger.info("%s: checking %s with %s", folder, runtime.name, python)
                out = Path(temporary) / "out"
                out.mkdir()
                results.append(_probe(runtime, python, request, out, options.timeout))
                shutil.rmtree(out)
            installed = [result for result in results if result.status != "not installed"]
            for result in installed or results[:1]:
                # Environments can have the same version of a runtime.
                rows += [row for row in _rows(runtime, result, inputs) if row not in rows]
        record: Record = {"schema": 1, "longest": inputs.longest, "rows": rows, "files": measured_files(folder)}
        write_json(folder / RECORD, record)
    return record


def _selected(names: Sequence[str]) -> Sequence[Runtime]:
    known = {runtime.name: runtime for runtime in RUNTIMES}
    for name in names:
        if name not in known:
            raise UsageError(f"--runtime {name}: unknown. Choose {', '.join(known)}.")
    return [known[name] for name in names] or RUNTIMES


def _probe(runtime: Runtime, python: str, request: Path, out: Path, timeout: float) -> _Result:
    """Runs the probe of a runtime in a separate process."""
    probe = _PROBES / runtime.probe
    command = [python, "-I", str(_PROBES / "harness.py"), str(probe), str(request), str(out)]
    if not runtime.is_python:
        if shutil.which(python) is None:
            return _Result("not installed", reason=f"needs {python}")
        command = [python, str(probe), str(request), str(out)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=environment, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return _Result("failed", reason=f"still running after {timeout:g} seconds", fix="Allow more with --timeout.")
    if run.returncode or not (out / "result.json").is_file():
        if run.returncode == -signal.SIGKILL:
            return _Result("failed", reason="killed, probably for lack of memory", fix="Free memory and check again.")
        ending = f"exit code {run.returncode}"
        if run.returncode < 0:
            ending = f"killed by {signal.Signals(-run.returncode).name}"
        return _Result("failed", reason=next(reversed(run.stderr.strip().splitlines()), ending))
    result: dict[str, Any] = read_json(out / "result.json", dict[str, Any])
    outputs = {
        name: [entry and np.fromfile(out / entry["file"], entry["dtype"]).reshape(entry["shape"]) for entry in entries]
        for name, entries in result.get("outputs", {}).items()
    }
    return _Result(
        result["status"],
        result.get("version", ""),
        result.get("reason", ""),
        outputs=outputs,
        left_out=result.get("left_out", {}),
    )


def _rows(runtime: Runtime, result: _Result, inputs: Inputs) -> list[Row]:
    """The rows of a runtime: one per output, or one with the reason if it computed nothing."""
    if result.status != "ok" or not result.outputs:
        reason = result.reason or "the probe computed nothing"
        status: Status = "failed" if result.status == "ok" else result.status
        fix = runtime.install if status == "not installed" else runtime.fix if status == "failed" else ""
        return [_row(runtime, result, "", None, status, reason, result.fix or fix)]
    rows = []
    for name, arrays in result.outputs.items():
        expected, limited = inputs.expected[name], []
        if name.endswith("_ids") and runtime.byte_fallback_issue:
            limited = _with_unknown_tokens(arrays, expected, inputs)
        compared = [None if number in limited else array for number, array in enumerate(arrays)]
        difference, reason = _difference(compared, expected, runtime.tolerance, name)
        count = sum(array is not None for array in compared)
        label = name if count == len(arrays) else f"{name} of {_counted(count)}"
        if reason:
            rows.append(_row(runtime, result, label, difference, "failed", reason, runtime.fix))
        elif count:
            rows.append(_row(runtime, result, label, difference, "ok", "", ""))
        if limited:
            label = f"{name} of {_counted(len(limited))}"
            reason = (
                f"its tokenizer has no byte fallback ({runtime.byte_fallback_issue}), so that characters outside the "
                f"vocabulary are unknown tokens in {_numbered(limited)}"
            )
            rows.append(_row(runtime, result, label, float(len(limited)), "not supported", reason, _SEND_IDS))
        if left_out := sum(array is None for array in arrays):
            label = f"{name} of {_counted(left_out)}"
            rows.append(_row(runtime, result, label, None, "not supported", result.left_out[name], ""))
    return rows


def _with_unknown_tokens(
    arrays: Sequence[np.ndarray | None], expected: Sequence[np.ndarray], inputs: Inputs
) -> list[int]:
    """The texts whose token ids differ only in unknown tokens in place of the bytes of characters."""
    unknown = [*inputs.byte_tokens, inputs.unknown_token]

    def without_bytes(ids: np.ndarray) -> list[int]:
        is_unknown = np.isin(ids, unknown)
        follows = np.concatenate([[False], is_unknown[:-1]])
        # Adjacent unknown tokens are one.
        return np.where(is_unknown, inputs.unknown_token, ids)[~(is_unknown & follows)].tolist()

    return [
        number
        for number, (array, torchs) in enumerate(zip(arrays, expected, strict=False))
        if array is not None and not np.array_equal(array, torchs) and without_bytes(array) == without_bytes(torchs)
    ]


def _counted(count: int) -> str:
    return f"{count} text{'s' if count > 1 else ''}"


def _numbered(texts: Sequence[int]) -> str:
    return f"text{'s' if len(texts) > 1 else ''} {', '.join(str(number + 1) for number in texts)}"


def _row(
    runtime: Runtime, result: _Result, output: str, difference: float | None, status: Status, reason: str, fix: str
) -> Row:
    return {
        "runtime": runtime.name,
        "version": result.version,
        "output": output.replace("_", " "),
        "difference": difference,
        "status": status,
        "reason": reason,
        "fix": fix,
    }


def _difference(
    arrays: Sequence[np.ndarray | None], expected: Sequence[np.ndarray], tolerance: float, name: str
) -> tuple[float | None, str]:
    """The largest difference over all texts, and the reason if it is too large."""
    if len(arrays) != len(expected):
        return None, f"{len(arrays)} outputs for {len(expected)} texts"
    if name.endswith("_ids"):
        differing = [
            number
            for number, (array, torchs) in enumerate(zip(arrays, expected, strict=True))
            if array is not None and not np.array_equal(array, torchs)
        ]
        reason = f"splits {_numbered(differing)} into other tokens than Python's tokenizer" if differing else ""
        return float(len(differing)), reason
    largest, reason = 0.0, ""
    for number, (array, torchs) in enumerate(zip(arrays, expected, strict=True)):
        if array is None:
            continue
        if array.shape != torchs.shape:
            return None, f"shape {array.shape} instead of {torchs.shape} for text {number + 1}"
        if not array.size:
            continue
        difference = float(np.abs(array - torchs).max())
        if not difference <= tolerance * max(1.0, float(np.abs(torchs).max())) and not reason:
            reason = f"differs from torch in text {number + 1} ({torchs.shape[0] if torchs.ndim else 1} values)"
        if not difference <= largest:
            largest = difference
    return (largest if np.isfinite(largest) else None), reason

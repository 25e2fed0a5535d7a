"""The record of `serve-check`: how close a model's outputs in the runtimes of servers are to torch's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from typing_extensions import TypedDict

from llm_jp_modernbert.core.files import files_by_path, read_json, sha256

from . import formatting

if TYPE_CHECKING:
    from .formatting import Markdown

RECORD = "serving.json"
"""File of the record in a model's directory."""

# Files that decide what runtimes compute.
_MEASURED = (
    *("*.safetensors", "*.onnx", "*.onnx_data", "openvino_model.*"),
    *("config.json", "tokenizer.json", "modules.json"),
)

Status = Literal["ok", "failed", "not installed", "not supported"]


class Row(TypedDict):
    """One output of a model in one runtime.

    `version` is empty if the runtime is not installed, `output` if nothing was computed. `difference` is the largest
    absolute difference from torch, for token ids the number of texts that are split differently; null if unknown.
    `reason` explains every status but `ok`, and `fix` names the way out.
    """

    runtime: str
    version: str
    output: str
    difference: float | None
    status: Status
    reason: str
    fix: str


class Record(TypedDict):
    """The content of `serving.json`: rows, measured on ten texts of at most `longest` tokens, and the SHA-256 sums of
    the files that were measured.
    """

    schema: int
    longest: int
    rows: list[Row]
    files: dict[str, str]


def measured_files(folder: Path) -> dict[str, str]:
    """SHA-256 sums of the weights, graphs, configuration and tokenizer in a directory, by path."""
    return {
        path: sha256(file)
        for path, file in files_by_path(folder).items()
        if any(file.match(pattern) for pattern in _MEASURED)
    }


def read_record(folder: Path) -> Record | None:
    """The record in a directory; None if there is none, or if the directory's model has changed since.

    Raises:
        UsageError: the record is not valid.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    record: Record = read_json(path, Record)
    return record if record["files"] == measured_files(folder) else None


def table(record: Record) -> Markdown:
    """The outputs that were compared with torch, as a table of the card."""
    rows = [
        (row["runtime"], row["version"], row["output"], shown(row), row["status"])
        for row in record["rows"]
        if row["status"] in ("ok", "failed")
    ]
    return formatting.table(("Runtime", "Version", "Output", "Largest difference", ""), rows)


def remarks(record: Record) -> list[str]:
    """Why outputs differ, or were not compared for some texts, in one line each."""
    return [
        f"{heading(row)}, {row['output'] or 'all outputs'}: {explanation(row)}"
        for row in record["rows"]
        if row["status"] == "failed" or (row["status"] == "not supported" and row["output"])
    ]


def heading(row: Row) -> str:
    """The runtime of a row and its version."""
    return f"{row['runtime']} {row['version']}".strip()


def explanation(row: Row) -> str:
    """The reason of a row's status, and the way out."""
    separator = ": " if row["status"] == "not installed" else ". "
    return f"{row['reason']}{separator}{row['fix']}".strip()


def shown(row: Row) -> str:
    """The difference of a row in a readable form."""
    if row["difference"] is None:
        return ""
    if not row["difference"]:
        return "none"
    if row["output"].partition(" of ")[0].endswith("ids"):
        return f"{row['difference']:.0f} text{'s' if row['difference'] > 1 else ''}"
    return f"{row['difference']:.1e}"

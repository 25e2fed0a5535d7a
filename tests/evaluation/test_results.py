"""The schema of results, and results of schema 1."""

from __future__ import annotations

import json
import tarfile
from dataclasses import fields
from pathlib import Path

import pytest

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.results import Measurement, Results, Row, Run, read_rows, write_rows

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "written-by-0.1.0.tar.xz"

RUN = Run(
    task="jnli",
    model="runs/small/checkpoint-200",
    revision="sha256:0123",
    protocol="default",
    settings={"batch_size": 32, "limit": None, "epochs": (1, 2)},
    seed=0,
    dataset="JNLI",
    dataset_revision="sha256:89ab",
    split="validation",
    examples=20,
    train_files=("a.jsonl", "b.jsonl"),
)


def schema_1(folder: Path, **changes: object) -> Path:
    """Writes a row as version 0.1.0 did for `RUN`."""
    row = {
        "task": "jnli",
        "dataset": "JNLI trained on a.jsonl+b.jsonl",
        "dataset_revision": "sha256:89ab",
        "split": "validation",
        "subset": "",
        "examples": 20,
        "metric": "accuracy",
        "value": 0.5,
        "higher_is_better": True,
        "low": None,
        "high": None,
        "baseline": 0.4,
        "model": "runs/small/checkpoint-200",
        "revision": "sha256:0123",
        "protocol": "improved",
        "settings": {
            "batch_size": 32,
            "limit": None,
            "selected_on": "dev",
            "learning_rate": 0.001,
            "epochs": 2,
            "train_examples": 50,
            "grid": {"0.001x1": 0.4, "0.001x2": 0.5},
        },
        "seed": 0,
        "versions": {},
    }
    path = folder / "jnli" / "model" / "improved-0.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"schema": 1, "rows": [{**row, **changes}]}), encoding="utf-8")
    return path


def test_schema_1_is_upgraded_to_fields(tmp_path: Path) -> None:
    (row,) = read_rows(schema_1(tmp_path))
    assert (row.dataset, row.train_files) == ("JNLI", ["a.jsonl", "b.jsonl"])
    assert (row.learning_rate, row.epochs, row.selected_on, row.train_examples) == (0.001, 2, "dev", 50)
    assert row.settings == {"batch_size": 32, "limit": None, "epochs": [1, 2]}
    assert [point["value"] for point in row.grid] == [0.4, 0.5]
    assert (row.scale, row.step) == (100, 200)
    # Fine-tuned on other files, so not part of the paper's mean.
    assert row.averaged_with == []


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"task": "pseudo-perplexity", "subset": "context-512"}, "context", 512),
        ({"task": "pseudo-perplexity", "subset": "length-1024-2048"}, "context", 2048),
        ({"task": "pseudo-perplexity", "settings": {"context": 8192}}, "context", 8192),
        ({"task": "pseudo-perplexity", "dataset": "a.jsonl+b.jsonl.gz"}, "text_files", ["a.jsonl", "b.jsonl.gz"]),
        ({"task": "retrieval", "settings": {"source": "jsquad"}}, "selector", "retrieval:jsquad"),
        ({"task": "jmteb-JSTS"}, "selector", "jmteb:JSTS"),
        ({"model": "org/name@stage2-4k"}, "stage", "stage2"),
        ({"dataset": "JNLI"}, "averaged_with", ["jsts", "jnli", "jcola"]),
        ({"metric": "pseudo_perplexity"}, "scale", 1),
    ],
)
def test_display_strings_of_schema_1_become_fields(
    changes: dict[str, object], field: str, value: object, tmp_path: Path
) -> None:
    (row,) = read_rows(schema_1(tmp_path, **changes))
    assert getattr(row, field) == value


def test_schema_2_reads_back_what_was_written(tmp_path: Path) -> None:
    written = Results(tmp_path).write(
        RUN, [Measurement("accuracy", 0.5, scale=100), Measurement("loss", float("nan"))]
    )
    read = Results(tmp_path).find(RUN)
    assert read is not None
    assert [row.value for row in read] == [0.5, None]
    assert json.loads(json.dumps([vars(row) for row in written])) == [vars(row) for row in read]


def test_newer_schema_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    write_rows(path, [])
    path.write_text(path.read_text().replace('"schema": 2', '"schema": 3'))
    with pytest.raises(UsageError, match="results of schema 3; this version reads up to 2"):
        read_rows(path)


def test_results_of_version_0_1_0_count_as_measured(tmp_path: Path) -> None:
    """The file name holds the hash of the run, so the run must hash to the same value as before."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    checked = set()
    for path in Results(tmp_path / "results").files():
        row = read_rows(path)[0]
        run = Run(**{item.name: getattr(row, item.name) for item in fields(Run)})
        if row.task not in ("pseudo-perplexity", "alignment-uniformity"):
            # The rows of those two count positions or texts, not the examples of the run.
            assert path.stem.endswith(f"-{run.key}")
            checked.add(row.task)
    assert checked >= {"fill-mask", "retrieval", "similarity", "jcola", "ner"}


def test_key_with_train_files_is_that_of_version_0_1_0() -> None:
    # Computed with version 0.1.0 for dataset="JNLI trained on a.jsonl+b.jsonl".
    assert RUN.key == "c732d02f"


def test_row_needs_only_what_a_published_table_has() -> None:
    row = Row("jsts", "JSTS", "validation", "pearson", 0.9, "org/name", "paper")
    assert (row.examples, row.seed, row.settings) == (0, 0, {})

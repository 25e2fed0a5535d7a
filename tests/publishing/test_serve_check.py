"""`serve-check` agrees with runtimes that compute the same, names those that do not, and the card shows its table."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from checkpoints import write_model
from sentence_models import write_sentence_model

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.heads import MASKED_LM, SEQUENCE_CLASSIFICATION
from llm_jp_modernbert.model_cards.serving import RECORD, Row
from llm_jp_modernbert.publishing import release as module
from llm_jp_modernbert.publishing.check import Checked
from llm_jp_modernbert.publishing.export_onnx import export_onnx
from llm_jp_modernbert.publishing.options import ReleaseOptions
from llm_jp_modernbert.publishing.release import release
from llm_jp_modernbert.publishing.serving import check
from llm_jp_modernbert.publishing.serving.check import serve_check
from llm_jp_modernbert.publishing.serving.options import ServeCheckOptions
from llm_jp_modernbert.publishing.serving.runtimes import RUNTIMES, Runtime


def rows(folder: Path, *runtimes: str) -> dict[str, Row]:
    """The rows of some runtimes, by output."""
    return {row["output"]: row for row in serve_check(ServeCheckOptions(folder, runtimes=list(runtimes)))["rows"]}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with its ONNX graph."""
    folder = write_model(tmp_path_factory.mktemp("models") / "classifier", SEQUENCE_CLASSIFICATION)
    export_onnx(folder)
    return folder


def test_masked_language_model_agrees_with_transformers(tmp_path: Path) -> None:
    found = rows(write_model(tmp_path / "model", MASKED_LM), "transformers")
    assert {*found} == {"logits", "last hidden state", "token ids"}
    assert all(row["status"] == "ok" for row in found.values()), found
    assert all(row["difference"] is not None and row["difference"] < 1e-4 for row in found.values())


def test_embedder_agrees_with_sentence_transformers(tmp_path: Path) -> None:
    """It has a prompt of its own, which servers do not add."""
    found = rows(write_sentence_model(tmp_path / "embedder", "SentenceTransformer"), "sentence-transformers")
    assert {*found} == {"sentence embedding", "sentence ids"}
    assert all(row["status"] == "ok" for row in found.values()), found


def test_broken_graph_fails_in_one_line(classifier: Path, tmp_path: Path) -> None:
    assert {row["status"] for row in rows(classifier, "ONNX Runtime").values()} == {"ok"}
    folder = Path(shutil.copytree(classifier, tmp_path / "broken"))
    graph = folder / "onnx" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:1000])
    (row,) = rows(folder, "ONNX Runtime").values()
    assert (row["status"], row["difference"]) == ("failed", None)
    assert "model.onnx" in row["reason"]
    assert "\n" not in row["reason"]
    assert "--onnx" in row["fix"]


def test_card_of_a_release_shows_the_table_until_the_model_changes(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "check", lambda *arguments: Checked())
    probe = tmp_path / "tokenizer.py"
    probe.write_text(
        "REQUIRES = ()\nVERSION_OF = ('numpy',)\n\n"
        "def outputs(request):\n    return {'token_ids': [[1], *request['token_ids'][1:]]}\n"
    )
    monkeypatch.setattr(check, "RUNTIMES", (Runtime("tokenizer", str(probe), "", "Use another one."),))
    staged, again = tmp_path / "staged", tmp_path / "again"
    release(ReleaseOptions(classifier, "org/name", dry_run=staged))
    assert "## Serving" not in (staged / "README.md").read_text("utf-8")
    (row,) = rows(staged).values()
    assert (row["status"], row["difference"]) == ("failed", 1)
    release(ReleaseOptions(staged, "org/name", dry_run=again))
    card = (again / "README.md").read_text("utf-8")
    assert f"| tokenizer | {row['version']} | token ids | 1 of 10 texts | failed |" in card
    assert "Use another one." in card
    assert RECORD in json.loads((again / "release.json").read_text("utf-8"))["files"]
    # The record does not prevent another dry run into its directory.
    release(ReleaseOptions(classifier, "org/name", dry_run=staged))
    # In bfloat16 the model computes something else.
    release(ReleaseOptions(again, "org/name", dtype="bfloat16", dry_run=staged))
    assert "## Serving" not in (staged / "README.md").read_text("utf-8")
    assert not (staged / RECORD).exists()


def test_missing_runtime_is_not_installed(classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = tmp_path / "absent.py"
    probe.write_text("REQUIRES = ('no_such_runtime',)\nVERSION_OF = ()\n")
    absent = Runtime("absent", str(probe), "pip install absent", "")
    monkeypatch.setattr(check, "RUNTIMES", (absent,))
    (row,) = rows(classifier).values()
    assert (row["status"], row["reason"], row["fix"]) == (
        "not installed",
        "needs no_such_runtime",
        "pip install absent",
    )


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("raise MemoryError('too little\\nfor this')", "MemoryError: too little"),
        ("return {'logits': [[1.0, 2.0]]}", "1 outputs for 10 texts"),
        ("import time; time.sleep(60)", "still running after 2 seconds"),
    ],
)
def test_crashing_probe_is_a_failed_row(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    probe = tmp_path / "crashing.py"
    probe.write_text(f"REQUIRES = ()\nVERSION_OF = ('numpy',)\n\ndef outputs(request):\n    {code}\n")
    monkeypatch.setattr(check, "RUNTIMES", (Runtime("crashing", str(probe), "", "Fix it."),))
    timeout = 2.0 if "sleep" in code else 60.0
    (row,) = serve_check(ServeCheckOptions(classifier, timeout=timeout))["rows"]
    assert (row["status"], row["reason"], row["fix"]) == ("failed", reason, "Fix it.")


def test_mistakes_are_named(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such directory"):
        serve_check(ServeCheckOptions(tmp_path / "missing"))
    with pytest.raises(UsageError, match=r"--runtime vllm2: unknown\. Choose transformers, "):
        serve_check(ServeCheckOptions(classifier, runtimes=["vllm2"]))
    with pytest.raises(UsageError, match=r"--python .*: no such interpreter"):
        serve_check(ServeCheckOptions(classifier, pythons=[tmp_path / "python"]))


def test_every_probe_belongs_to_a_runtime() -> None:
    folder = Path(check.__file__).with_name("probes")
    probes = {path.name for path in folder.iterdir() if path.suffix in (".py", ".mjs")} - {"__init__.py", "harness.py"}
    assert {runtime.probe for runtime in RUNTIMES} == probes

"""`serve-check` agrees with runtimes that compute the same, names those that do not, and the card shows its table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from checkpoints import write_model
from onnx import TensorProto, helper
from safetensors.torch import load_file, save_file
from sentence_models import write_sentence_model

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.heads import MASKED_LM, SEQUENCE_CLASSIFICATION
from llm_jp_modernbert.model_cards.serving import RECORD, Row
from llm_jp_modernbert.publishing import release as module
from llm_jp_modernbert.publishing.check import Checked
from llm_jp_modernbert.publishing.options import ReleaseOptions
from llm_jp_modernbert.publishing.release import release
from llm_jp_modernbert.publishing.serving import check
from llm_jp_modernbert.publishing.serving.check import serve_check
from llm_jp_modernbert.publishing.serving.inputs import make_inputs
from llm_jp_modernbert.publishing.serving.options import ServeCheckOptions
from llm_jp_modernbert.publishing.serving.probes import st_torch
from llm_jp_modernbert.publishing.serving.probes.packed_torch import packed_by
from llm_jp_modernbert.publishing.serving.runtimes import RUNTIMES, Runtime

LOGITS = [0.5, -1.0, 2.0]
# The tokenizers library without byte fallback, which adds a token to texts that begin with a character.
TOKENIZER = """
import json
from pathlib import Path
from tokenizers import Tokenizer
settings = json.loads(Path(request["folder"], "tokenizer.json").read_text("utf-8"))
assert settings["model"]["byte_fallback"]
settings["model"]["byte_fallback"] = False
tokenizer = Tokenizer.from_str(json.dumps(settings))
rows = [tokenizer.encode(*text).ids for text in request["texts"]]
return {"token_ids": [row + [5] * (text[0][:1] in CHARACTERS) for row, text in zip(rows, request["texts"])]}
"""
PROBES = {
    "absent": "raise AssertionError",
    "segfault": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "memory": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "error": "raise ValueError('too little\\nfor this')",
    "short": "return {'logits': [[1.0, 2.0]]}",
    "no bytes": TOKENIZER.replace("CHARACTERS", "[]"),
    "other tokens": TOKENIZER.replace("CHARACTERS", "['猫', '𠮷']"),
}


def rows(folder: Path, *runtimes: str) -> dict[str, Row]:
    """The rows of some runtimes, by output."""
    return {row["output"]: row for row in serve_check(ServeCheckOptions(folder, runtimes=list(runtimes)))["rows"]}


def write_probe(path: Path, code: str, requires: str = "()") -> str:
    """Writes a probe whose function `outputs` has a body."""
    body = code.strip().replace("\n", "\n    ")
    path.write_text(f"REQUIRES = {requires}\nVERSION_OF = ('numpy',)\n\ndef outputs(request):\n    {body}\n", "utf-8")
    return str(path)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with the same logits for every text, and a graph of these logits."""
    folder = write_model(tmp_path_factory.mktemp("models") / "classifier", SEQUENCE_CLASSIFICATION)
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"].zero_()
    weights["classifier.bias"][:] = weights["classifier.bias"].new_tensor(LOGITS)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(LOGITS)])]
    constants = [
        helper.make_tensor("bias", TensorProto.FLOAT, [len(LOGITS)], LOGITS),
        helper.make_tensor("labels", TensorProto.INT64, [1], [len(LOGITS)]),
    ]
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["batch"], start=0, end=1),
        helper.make_node("Concat", ["batch", "labels"], ["shape"], axis=0),
        helper.make_node("Expand", ["bias", "shape"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "classifier", inputs, outputs, constants)
    (folder / "onnx").mkdir()
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), folder / "onnx" / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def probed(classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Row]]:
    """The rows of all `PROBES`, by runtime."""
    folder = tmp_path_factory.mktemp("probes")
    runtimes = [
        Runtime(
            name,
            write_probe(folder / f"{number}.py", code, "('no_such_runtime',)" if name == "absent" else "()"),
            "pip install absent",
            "Fix it.",
            byte_fallback_issue="" if name == "short" else "project#1",
        )
        for number, (name, code) in enumerate(PROBES.items())
    ]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(check, "RUNTIMES", runtimes)
        record = serve_check(ServeCheckOptions(classifier, timeout=300.0))
    return {name: [row for row in record["rows"] if row["runtime"] == name] for name in PROBES}


def test_masked_language_model_agrees_with_transformers(tmp_path: Path) -> None:
    found = rows(write_model(tmp_path / "model", MASKED_LM), "transformers")
    assert {*found} == {"logits", "last hidden state", "token ids"}
    assert all(row["status"] == "ok" for row in found.values()), found
    assert all(row["difference"] is not None and row["difference"] < 1e-4 for row in found.values())


def test_embedder_agrees_with_sentence_transformers(tmp_path: Path) -> None:
    """It has a prompt of its own, which servers do not add."""
    inputs = make_inputs(write_sentence_model(tmp_path / "embedder", "SentenceTransformer"))
    outputs = st_torch.outputs(inputs.request)
    assert outputs["sentence_ids"] == [ids.tolist() for ids in inputs.expected["sentence_ids"]]
    np.testing.assert_allclose(outputs["sentence_embedding"], inputs.expected["sentence_embedding"], atol=1e-5)


def test_broken_graph_fails_in_one_line(classifier: Path, tmp_path: Path) -> None:
    graph = classifier / "onnx" / "model.onnx"
    content = graph.read_bytes()
    assert {row["status"] for row in rows(classifier, "ONNX Runtime").values()} == {"ok"}
    graph.write_bytes(content[: len(content) // 2])
    try:
        (row,) = rows(classifier, "ONNX Runtime").values()
    finally:
        graph.write_bytes(content)
    assert (row["status"], row["difference"]) == ("failed", None)
    assert "model.onnx" in row["reason"]
    assert "\n" not in row["reason"]
    assert "--onnx" in row["fix"]


def test_card_of_a_release_shows_the_table_until_the_model_changes(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "check", lambda *arguments: Checked())
    probe = write_probe(tmp_path / "tokenizer.py", "return {'token_ids': [[1], *request['token_ids'][1:]]}")
    monkeypatch.setattr(check, "RUNTIMES", (Runtime("tokenizer", probe, "", "Use another one."),))
    staged, again = tmp_path / "staged", tmp_path / "again"
    release(ReleaseOptions(classifier, "org/name", dry_run=staged))
    assert "## Serving" not in (staged / "README.md").read_text("utf-8")
    (row,) = rows(staged).values()
    assert (row["status"], row["difference"]) == ("failed", 1)
    release(ReleaseOptions(staged, "org/name", dry_run=again))
    card = (again / "README.md").read_text("utf-8")
    assert f"| tokenizer | {row['version']} | token ids | 1 text | failed |" in card
    assert "Use another one." in card
    assert RECORD in json.loads((again / "release.json").read_text("utf-8"))["files"]
    # The record does not prevent another dry run into its directory.
    release(ReleaseOptions(classifier, "org/name", dry_run=staged))
    # In bfloat16 the model computes something else.
    release(ReleaseOptions(again, "org/name", dtype="bfloat16", dry_run=staged))
    assert "## Serving" not in (staged / "README.md").read_text("utf-8")
    assert not (staged / RECORD).exists()


@pytest.mark.parametrize(
    ("name", "status", "reason", "fix"),
    [
        ("absent", "not installed", "needs no_such_runtime", "pip install absent"),
        ("segfault", "failed", "killed by SIGSEGV", "Fix it."),
        ("memory", "failed", "killed, probably for lack of memory", "Free memory and check again."),
        ("error", "failed", "ValueError: too little", "Fix it."),
        ("short", "failed", "1 outputs for 10 texts", "Fix it."),
    ],
)
def test_failing_probe_is_one_row(probed: dict[str, list[Row]], name: str, status: str, reason: str, fix: str) -> None:
    (row,) = probed[name]
    assert (row["status"], row["reason"], row["fix"]) == (status, reason, fix)


def test_slow_probe_fails(classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = write_probe(tmp_path / "slow.py", "import time; time.sleep(60)")
    monkeypatch.setattr(check, "RUNTIMES", (Runtime("slow", probe, "", "Fix it."),))
    (row,) = serve_check(ServeCheckOptions(classifier, timeout=0.1))["rows"]
    assert (row["status"], row["reason"]) == ("failed", "still running after 0.1 seconds")
    assert "--timeout" in row["fix"]


def test_missing_byte_fallback_is_a_limit_and_other_tokens_are_a_failure(probed: dict[str, list[Row]]) -> None:
    equal, limited = probed["no bytes"]
    assert (equal["status"], equal["difference"]) == ("ok", 0)
    assert limited["status"] == "not supported"
    assert "project#1" in limited["reason"]
    counts = [int(row["output"].split()[3]) for row in (equal, limited)]
    assert sum(counts) == 10
    assert counts[1] == limited["difference"] == limited["reason"].partition(" in texts ")[2].count(",") + 1
    failed, others = probed["other tokens"]
    # The second and the sixth text.
    assert (failed["status"], failed["difference"]) == ("failed", 2)
    assert "texts 2, 6 into other tokens" in failed["reason"]
    assert others["difference"] == limited["difference"] - 2


class Recorder:
    """A runner that records the lengths of the documents of its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def run(self, input_ids: np.ndarray, cu_seqlens: np.ndarray, positions: Any) -> dict[str, np.ndarray]:
        """The number of each document's tokens as its hidden state."""
        lengths: Sequence[int] = np.diff(cu_seqlens).tolist()
        self.batches.append(lengths)
        return {"last_hidden_state": np.repeat(lengths, lengths)[:, None]}


def test_long_text_is_a_packed_batch_of_its_own() -> None:
    """A graph computes `documents · longest²` scores, which for ten texts of 8192 tokens exceed any memory."""
    lengths = [2, 5, 9, 300, 1000, 8192]
    request = {"head": "Model", "embedder": None, "mask_token_id": None, "token_ids": [[7] * size for size in lengths]}
    runner = Recorder()
    outputs = packed_by(runner, False, request)
    assert [rows.tolist() for rows in outputs["last_hidden_state"]] == [[[size]] * size for size in lengths]
    assert max(len(batch) * max(batch) ** 2 for batch in runner.batches) == 8192**2
    assert max(map(len, runner.batches)) > 1


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

"""Packed graphs in ONNX Runtime and OpenVINO compute what the model computes, whatever the lengths."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_models import tiny_config

import llm_jp_modernbert.modeling.modeling_llm_jp_modernbert as modeling
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.graphs import export
from llm_jp_modernbert.inference.graphs.export import DESCRIPTION, export_graph, graph_folder
from llm_jp_modernbert.inference.graphs.inputs import BLOCK
from llm_jp_modernbert.inference.graphs.runners import GraphRunner, OnnxRunner, OpenVinoRunner
from llm_jp_modernbert.inference.heads import ENCODER, HEADS, MASKED_LM, MULTIPLE_CHOICE, QUESTION_ANSWERING, Head

LENGTH = 3 * BLOCK
WINDOW = 8
# Documents around every edge of a block and of the window, alone and in batches of mixed lengths.
EDGES = (1, 2, WINDOW, WINDOW + 1, WINDOW + 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 1, LENGTH)
BATCHES = [[length] for length in EDGES] + [[*EDGES], [5] * 40, [LENGTH, 1, 1], [1] * (BLOCK + 1), [20, BLOCK, 300, 7]]
RUNNERS: dict[str, Any] = {"onnx": OnnxRunner, "openvino": OpenVinoRunner}


def model_with(head: Head, **changes: Any) -> Any:
    """A tiny model with random weights, whose hidden states differ clearly between tokens."""
    torch.manual_seed(0)
    labels = 2 if head is QUESTION_ANSWERING else 3
    config = tiny_config(
        max_position_embeddings=LENGTH, local_attention=2 * WINDOW, num_labels=labels, num_hidden_layers=2, **changes
    )
    model = getattr(modeling, f"LlmJpModernBert{head.suffix}")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    config.architectures = [f"ModernBert{head.suffix}"]
    return model


def batch_of(lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Random ids and the boundaries of documents."""
    boundaries = np.array([0, *np.cumsum(lengths)])
    return np.random.default_rng(0).integers(8, 320, boundaries[-1]), boundaries


def in_torch(model: Any, ids: np.ndarray, boundaries: np.ndarray) -> Any:
    """The model's outputs for the documents."""
    with torch.inference_mode():
        return model(torch.from_numpy(ids)[None], cu_seqlens=torch.from_numpy(boundaries).int())


@pytest.fixture(scope="module", params=RUNNERS)
def runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, GraphRunner]:
    """An encoder and its graph."""
    pytest.importorskip({"onnx": "onnxruntime", "openvino": "openvino"}[request.param])
    model = model_with(ENCODER)
    folder = tmp_path_factory.mktemp(request.param) / "graph"
    export_graph(model, folder, request.param, "test", pooling="mean", normalized=request.param == "openvino")
    return model, RUNNERS[request.param](folder)


@pytest.mark.parametrize("lengths", BATCHES, ids=str)
def test_hidden_states_equal_torch(runner: tuple[Any, GraphRunner], lengths: list[int]) -> None:
    model, graph = runner
    ids, boundaries = batch_of(lengths)
    expected = in_torch(model, ids, boundaries).last_hidden_state[0]
    outputs = graph.run(ids, boundaries)
    np.testing.assert_allclose(outputs["last_hidden_state"], expected, atol=1e-4)
    means = torch.stack([document.mean(0) for document in expected.split(lengths)])
    vectors = torch.nn.functional.normalize(means) if isinstance(graph, OpenVinoRunner) else means
    np.testing.assert_allclose(outputs["sentence_embedding"], vectors, atol=1e-4)


def test_vector_does_not_depend_on_the_batch(runner: tuple[Any, GraphRunner]) -> None:
    lengths = [40, 2, LENGTH, BLOCK, 9]
    ids, boundaries = batch_of(lengths)
    together = runner[1].run(ids, boundaries)["sentence_embedding"]
    for number, (start, stop) in enumerate(itertools.pairwise(boundaries)):
        alone = runner[1].run(ids[start:stop], np.array([0, stop - start]))["sentence_embedding"]
        np.testing.assert_allclose(alone[0], together[number], atol=1e-5)


@pytest.mark.parametrize("lengths", [[0], [3, 0, 2], [LENGTH + 1]], ids=str)
def test_unusable_lengths_are_refused(runner: tuple[Any, GraphRunner], lengths: list[int]) -> None:
    with pytest.raises(UsageError, match=f"1 to {LENGTH}"):
        runner[1].run(*batch_of(lengths))


# Each runtime with half of the heads: exports take seconds.
@pytest.mark.parametrize(
    ("head", "name"),
    zip(
        (head for head in HEADS if head is not ENCODER),
        ("openvino", "onnx", "openvino", "onnx", "openvino"),
        strict=True,
    ),
    ids=lambda value: getattr(value, "suffix", value),
)
def test_heads_equal_torch(head: Head, name: str, tmp_path: Path) -> None:
    pytest.importorskip({"onnx": "onnxruntime", "openvino": "openvino"}[name])
    model = model_with(head, classifier_pooling="cls" if head is MULTIPLE_CHOICE else "mean")
    export_graph(model, tmp_path / "graph", name, "test")  # type: ignore[arg-type]
    graph = RUNNERS[name](tmp_path / "graph")
    lengths = [30, 4, 4]
    ids, boundaries = batch_of(lengths)
    if head is MULTIPLE_CHOICE:
        row, mask = np.zeros((1, 3, 30), np.int64), np.zeros((1, 3, 30), np.int64)
        for choice, (start, stop) in enumerate(itertools.pairwise(boundaries)):
            row[0, choice, : stop - start], mask[0, choice, : stop - start] = ids[start:stop], 1
        with torch.inference_mode():
            expected = model(torch.from_numpy(row), torch.from_numpy(mask)).logits.T
        np.testing.assert_allclose(graph.run(ids, boundaries)["logits"], expected, atol=1e-4)
        return
    positions = np.array([1, 31]) if head is MASKED_LM else None
    outputs, expected = graph.run(ids, boundaries, positions), in_torch(model, ids, boundaries)
    for field in head.outputs:
        rows = expected[field] if head.pools else expected[field][0]
        np.testing.assert_allclose(outputs[field], rows if positions is None else rows[positions], atol=2e-4)
    if head is MASKED_LM:
        assert graph.run(ids, boundaries)["logits"].shape == (0, 320)


def test_graph_is_exported_once_and_again_for_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("LLM_JP_MODERNBERT_CACHE", str(tmp_path / "cache"))
    model = model_with(ENCODER)
    model.save_pretrained(tmp_path / "model")
    first = graph_folder(str(tmp_path / "model"), "openvino")
    written = (first / DESCRIPTION).stat().st_mtime_ns
    assert graph_folder(str(tmp_path / "model"), "openvino") == first
    assert (first / DESCRIPTION).stat().st_mtime_ns == written
    # The record of serve-check identifies a graph by its bytes.
    with monkeypatch.context() as patch:
        patch.setenv("LLM_JP_MODERNBERT_CACHE", str(tmp_path / "other cache"))
        same = graph_folder(str(tmp_path / "model"), "openvino")
    assert same != first
    for file in first.iterdir():
        assert (same / file.name).read_bytes() == file.read_bytes()
    with torch.no_grad():
        model.final_norm.weight.mul_(2)
    model.save_pretrained(tmp_path / "model")
    exported: list[Path] = []
    monkeypatch.setattr(export, "export_graph", lambda model, folder, *settings: exported.append(folder))
    assert [graph_folder(str(tmp_path / "model"), "openvino")] == exported != [first]

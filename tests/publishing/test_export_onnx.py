"""ONNX exports give the same outputs in onnxruntime as the model in torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from checkpoints import write_checkpoint, write_model
from transformers import AutoConfig, ModernBertForMaskedLM

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.heads import (
    ENCODER,
    MULTIPLE_CHOICE,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    Head,
)
from llm_jp_modernbert.inference.loading import load_masked_lm
from llm_jp_modernbert.publishing import export_onnx as module
from llm_jp_modernbert.publishing.export_onnx import export_onnx


def write_model_to_export(path: Path, checkpoint_format: str = "plain") -> Path:
    """A masked language model with one layer of global and one of local attention; each layer takes seconds."""
    return write_checkpoint(path, checkpoint_format, num_hidden_layers=2)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A model directory with a float32 and an int8 export, and the program that torch exported."""
    folder = write_model_to_export(tmp_path_factory.mktemp("onnx") / "model")
    programs = []
    with pytest.MonkeyPatch.context() as patch:
        torch_export = torch.onnx.export
        patch.setattr(
            torch.onnx, "export", lambda *given, **named: programs.append(torch_export(*given, **named)) or programs[0]
        )
        # int8 changes more predictions of random weights than of trained ones.
        patch.setattr(module, "MOST_CHANGED", 1)
        files = export_onnx(folder, int8=True)
    assert files == [folder / "onnx" / "model.onnx", folder / "onnx" / "model_int8.onnx"]
    return folder, programs[0]


@pytest.fixture
def exported(export: tuple[Path, Any]) -> Path:
    """A model directory with a float32 and an int8 export."""
    return export[0]


@pytest.fixture
def same_program(export: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's export, which takes seconds, returns the program of the same model that was exported before."""
    monkeypatch.setattr(torch.onnx, "export", lambda *given, **named: export[1])


def run(file: Path, ids: torch.Tensor, mask: torch.Tensor) -> list[np.ndarray]:
    """Logits and hidden states in onnxruntime."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    return outputs


def test_outputs_equal_transformers(exported: Path) -> None:
    """With and without padding; local attention spans 8 tokens to either side, the context length is 64."""
    peer = ModernBertForMaskedLM.from_pretrained(exported, attn_implementation="eager").eval()
    for batch, length, padding in [(1, 1, 0), (1, 7, 0), (2, 13, 5), (3, 64, 40), (5, 33, 0)]:
        ids = torch.randint(peer.config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(1))
        mask = torch.ones_like(ids)
        mask[-1, length - padding :] = 0
        with torch.no_grad():
            expected = peer(input_ids=ids, attention_mask=mask).logits
            hidden = peer.model(input_ids=ids, attention_mask=mask).last_hidden_state
        logits, last = run(exported / "onnx" / "model.onnx", ids, mask)
        tokens = mask.bool().numpy()
        np.testing.assert_allclose(logits[tokens], expected.numpy()[tokens], atol=1e-4)
        np.testing.assert_allclose(last[tokens], hidden.numpy()[tokens], atol=1e-4)


@pytest.mark.parametrize(
    ("head", "settings"),
    [
        (SEQUENCE_CLASSIFICATION, {"classifier_pooling": "mean", "problem_type": "multi_label_classification"}),
        (QUESTION_ANSWERING, {}),
        (MULTIPLE_CHOICE, {}),
        (ENCODER, {}),
    ],
    ids=lambda value: value.suffix if isinstance(value, Head) else "",
)
def test_outputs_of_other_heads_equal_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: Head, settings: dict[str, str]
) -> None:
    monkeypatch.setattr(module, "MOST_CHANGED", 1)
    # The masked language model tests local attention, which the second layer would have.
    folder = write_model(tmp_path / "model", head, num_hidden_layers=1, **settings)
    # The export of one head tests the quantization too, since it takes seconds.
    files = export_onnx(folder, int8=head is SEQUENCE_CLASSIFICATION)
    peer = getattr(transformers, head.auto_class).from_pretrained(folder, attn_implementation="eager").eval()
    session = onnxruntime.InferenceSession(files[0], providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_outputs()] == list(head.outputs)
    for batch, choices, length in [(1, 1, 5), (3, 4, 40), (2, 2, 130)]:
        shape = (batch, choices, length) if head is MULTIPLE_CHOICE else (batch, length)
        ids = torch.randint(AutoConfig.from_pretrained(folder).vocab_size, shape)
        mask = torch.ones_like(ids)
        mask[-1, ..., length // 2 + 1 :] = 0
        with torch.no_grad():
            expected = peer(input_ids=ids, attention_mask=mask)
        outputs = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        for name, output in zip(head.outputs, outputs, strict=True):
            tokens = slice(None) if head.pools else mask.bool().numpy()
            np.testing.assert_allclose(output[tokens], expected[name].numpy()[tokens], atol=1e-4)


def test_files_are_valid_dynamic_and_free_of_local_paths(exported: Path) -> None:
    for name in ("model.onnx", "model_int8.onnx"):
        file = exported / "onnx" / name
        onnx.checker.check_model(file)
        graph = onnx.load(file).graph
        shapes = [
            [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in graph.input
        ]
        assert [value.name for value in graph.input] == ["input_ids", "attention_mask"]
        assert [value.name for value in graph.output] == ["logits", "last_hidden_state"]
        assert shapes == [["batch", "length"]] * 2
        for path in (sys.prefix, str(Path(__file__).parents[2]), "site-packages", "File "):
            assert path.encode() not in file.read_bytes()
    sizes = [(exported / "onnx" / name).stat().st_size for name in ("model.onnx", "model_int8.onnx")]
    assert sizes[1] < sizes[0]


def test_export_is_reproducible_and_independent_of_the_format(
    exported: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    native = write_model_to_export(tmp_path / "native", "native")
    with caplog.at_level("INFO"):
        (file,) = export_onnx(native)
    assert file.read_bytes() == (exported / "onnx" / "model.onnx").read_bytes()
    assert [path.name for path in native.iterdir() if path.name.startswith(".")] == []
    assert "onnx/model.onnx: outputs differ from torch's by at most" in caplog.text


@pytest.mark.usefixtures("same_program")
def test_large_models_have_a_separate_weights_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST_FILE", 0)
    monkeypatch.setattr(module, "changes", lambda first, second, folder: (0, 398))
    folder = write_model_to_export(tmp_path / "model")
    files = export_onnx(folder, int8=True)
    names = ["model.onnx", "model.onnx_data", "model_int8.onnx", "model_int8.onnx_data"]
    assert [file.name for file in files] == names
    ids = torch.ones(1, 5, dtype=torch.long)
    assert run(files[0], ids, ids)[0].shape == run(files[2], ids, ids)[0].shape == (1, 5, 305)


def test_logits_of_another_model_are_detected(exported: Path) -> None:
    session = onnxruntime.InferenceSession(exported / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    model = load_masked_lm(str(exported), device="cpu")
    assert module.largest_difference(session, model) < 1e-4
    torch.nn.init.constant_(model.decoder.bias[7], 0.01)
    assert module.largest_difference(session, model) == pytest.approx(0.01, rel=0.1)


@pytest.mark.usefixtures("same_program")
def test_inaccurate_exports_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model_to_export(tmp_path / "model")
    before = sorted(folder.rglob("*"))
    monkeypatch.setattr(module, "changes", lambda first, second, folder: (2, 398))
    message = (
        r"onnx/model_int8\.onnx: int8 changes 2 of 398 predictions \(0\.50%\).*; at most 1 \(0\.5%\) may change\."
    )
    with pytest.raises(UsageError, match=message):
        export_onnx(folder, int8=True)
    monkeypatch.setattr(module, "largest_difference", lambda session, model: 0.01)
    with pytest.raises(UsageError, match=r"onnx/model\.onnx: outputs differ from torch's by 1e-02, more than 0\.001"):
        export_onnx(folder)
    assert sorted(folder.rglob("*")) == before


def test_missing_package_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UsageError, match=r"pip install 'llm-jp-modernbert\[onnx\]'"):
        export_onnx(tmp_path)

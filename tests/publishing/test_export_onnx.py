"""Models in onnxruntime give what they give in torch."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from checkpoints import write_checkpoint
from transformers import ModernBertForMaskedLM

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.publishing import export_onnx as module
from llm_jp_modernbert.publishing.export_onnx import export_onnx


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A model with both of its files, and what was told of them."""
    folder = write_checkpoint(tmp_path_factory.mktemp("onnx") / "model")
    told: list[str] = []
    files = export_onnx(folder, int8=True, tell=told.append)
    assert files == [folder / "onnx" / "model.onnx", folder / "onnx" / "model_int8.onnx"]
    return folder, told


def run(file: Path, ids: torch.Tensor, mask: torch.Tensor) -> list[np.ndarray]:
    """Logits and hidden states in onnxruntime."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    return found


def test_equal_to_transformers(exported: tuple[Path, list[str]]) -> None:
    """At several sizes, padded or not; the model's window is 8 tokens to either side, and it reads 64."""
    folder, _ = exported
    peer = ModernBertForMaskedLM.from_pretrained(folder, attn_implementation="eager").eval()
    for batch, length, missing in [(1, 1, 0), (1, 7, 0), (2, 13, 5), (3, 64, 40), (5, 33, 0)]:
        ids = torch.randint(peer.config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(1))
        mask = torch.ones_like(ids)
        mask[-1, length - missing :] = 0
        with torch.no_grad():
            expected = peer(input_ids=ids, attention_mask=mask).logits
            hidden = peer.model(input_ids=ids, attention_mask=mask).last_hidden_state
        logits, last = run(folder / "onnx" / "model.onnx", ids, mask)
        tokens = mask.bool().numpy()
        np.testing.assert_allclose(logits[tokens], expected.numpy()[tokens], atol=1e-4)
        np.testing.assert_allclose(last[tokens], hidden.numpy()[tokens], atol=1e-4)


def test_form_of_the_files(exported: tuple[Path, list[str]]) -> None:
    """Sound, dynamic, without a trace of the machine; 8 bits are smaller and nearly right."""
    folder, told = exported
    for name in ("model.onnx", "model_int8.onnx"):
        file = folder / "onnx" / name
        onnx.checker.check_model(file)
        graph = onnx.load(file).graph
        shapes = [[axis.dim_param or axis.dim_value for axis in one.type.tensor_type.shape.dim] for one in graph.input]
        assert [one.name for one in graph.input] == ["input_ids", "attention_mask"]
        assert [one.name for one in graph.output] == ["logits", "last_hidden_state"]
        assert shapes == [["batch", "length"]] * 2
        for path in (sys.prefix, str(Path(__file__).parents[2]), "site-packages", "File "):
            assert path.encode() not in file.read_bytes()
    sizes = [(folder / "onnx" / name).stat().st_size for name in ("model.onnx", "model_int8.onnx")]
    assert sizes[1] < sizes[0]
    assert told[0].startswith("onnx/model.onnx: logits within ")
    assert told[1].startswith("onnx/model_int8.onnx: the first candidate is that of float32 for ")


def test_same_model_same_bytes_in_either_format(exported: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, _ = exported
    again = write_checkpoint(tmp_path / "native", "native")
    (file,) = export_onnx(again)
    assert file.read_bytes() == (folder / "onnx" / "model.onnx").read_bytes()
    assert [path.name for path in again.iterdir() if path.name.startswith(".")] == []


def test_large_models_keep_their_weights_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGEST_FILE", 0)
    folder = write_checkpoint(tmp_path / "model")
    files = export_onnx(folder, int8=True)
    names = ["model.onnx", "model.onnx.data", "model_int8.onnx", "model_int8.onnx.data"]
    assert [file.name for file in files] == names
    ids = torch.ones(1, 5, dtype=torch.long)
    assert run(files[0], ids, ids)[0].shape == run(files[2], ids, ids)[0].shape == (1, 5, 305)


def test_wrong_exports_are_stopped(
    exported: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is not the model's is not kept, nor one that 8 bits have spoilt."""
    folder = write_checkpoint(tmp_path / "model")
    before = sorted(folder.rglob("*"))
    monkeypatch.setattr(
        module, "_export", lambda model, file: shutil.copyfile(exported[0] / "onnx" / "model.onnx", file)
    )
    monkeypatch.setattr(module, "agreement", lambda first, second, folder: (49, 100))
    with pytest.raises(UsageError, match=r"onnx/model_int8\.onnx: .* 49 of 100 masks\. Export it without int8\."):
        export_onnx(folder, int8=True)
    model = ModernBertForMaskedLM.from_pretrained(folder)
    torch.nn.init.constant_(model.decoder.bias[7], 0.01)
    model.save_pretrained(folder)
    with pytest.raises(UsageError, match=r"onnx/model\.onnx: logits are 1e-02 from torch's, more than 0\.001"):
        export_onnx(folder)
    assert sorted(folder.rglob("*")) == before


def test_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UsageError, match=r"pip install 'llm-jp-modernbert\[onnx\]'"):
        export_onnx(tmp_path)

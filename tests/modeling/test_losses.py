"""The masked-LM loss equals torch's in values and gradients, and computes gradients only if they are needed."""

from __future__ import annotations

import pytest
import torch
from peer import LOSS_TOLERANCE, assert_close, documents, pair
from torch.nn.functional import cross_entropy

from llm_jp_modernbert.modeling import losses

OUTPUT_TOLERANCE_OF = {torch.float32: 1e-6, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "chunk", "block"), [(0, 4, 7), (1, 4, 50), (4, 4, 64), (10, 4, 7), (10, 4, 49)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_linear_cross_entropy_equals_torch(
    rows: int, chunk: int, block: int, with_bias: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(4)
    hidden = torch.randn(rows, 16).to(dtype).requires_grad_()
    weight = torch.randn(50, 16).to(dtype).requires_grad_()
    bias = torch.randn(50).to(dtype).requires_grad_() if with_bias else None
    labels = torch.randint(50, (rows,))
    inputs = [tensor for tensor in (hidden, weight, bias) if tensor is not None]
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    expected = cross_entropy(logits, labels, reduction="sum") / 20
    loss = losses.linear_cross_entropy(hidden, weight, bias, labels, 20, chunk, block)
    assert loss.dtype == torch.float32
    tolerance = OUTPUT_TOLERANCE_OF[dtype]
    # In bfloat16, torch rounds logits after adding the bias, this loss before.
    assert_close(loss, expected, LOSS_TOLERANCE if dtype == torch.float32 else tolerance)
    gradients = (torch.autograd.grad(scalar, inputs) for scalar in (loss, expected))
    for gradient, reference in zip(*gradients, strict=True):
        assert gradient.dtype == dtype
        assert_close(gradient, reference, tolerance)


def test_loss_without_gradients_does_not_compute_them(monkeypatch: pytest.MonkeyPatch) -> None:
    own, peer = pair("ForMaskedLM")
    ids = torch.stack(documents(130, 130))
    batch = {"input_ids": ids, "labels": ids}
    with torch.no_grad():
        expected = peer(**batch).loss
    monkeypatch.setattr(losses, "_probabilities", None)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert_close(own(**batch).loss, expected, LOSS_TOLERANCE)
    with pytest.raises(TypeError, match="not callable"):
        own(**batch)


@pytest.mark.parametrize("label", [-1, 50])
def test_label_outside_vocabulary_raises(label: int) -> None:
    with pytest.raises(RuntimeError, match=f"{label} is out of bounds"):
        losses.linear_cross_entropy(torch.randn(2, 16), torch.randn(50, 16), None, torch.tensor([3, label]))

"""The masked-LM loss by itself: values and gradients of torch's own, and nothing computed that nobody wants."""

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
def test_fused_loss_by_itself(rows: int, chunk: int, block: int, with_bias: bool, dtype: torch.dtype) -> None:
    """Equal to torch's cross-entropy over all logits, gradients included."""
    torch.manual_seed(4)
    hidden = torch.randn(rows, 16).to(dtype).requires_grad_()
    weight = torch.randn(50, 16).to(dtype).requires_grad_()
    bias = torch.randn(50).to(dtype).requires_grad_() if with_bias else None
    labels = torch.randint(50, (rows,))
    given = [tensor for tensor in (hidden, weight, bias) if tensor is not None]
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    expected = cross_entropy(logits, labels, reduction="sum") / 20
    loss = losses.linear_cross_entropy(hidden, weight, bias, labels, 20, chunk, block)
    assert loss.dtype == torch.float32
    tolerance = OUTPUT_TOLERANCE_OF[dtype]
    # In bfloat16 torch's layer rounds its logits after their bias, the fused loss before.
    assert_close(loss, expected, LOSS_TOLERANCE if dtype == torch.float32 else tolerance)
    for found, wanted in zip(torch.autograd.grad(loss, given), torch.autograd.grad(expected, given), strict=True):
        assert found.dtype == dtype
        assert_close(found, wanted, tolerance)


def test_no_gradients_are_computed_where_none_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_label_outside_the_vocabulary_is_an_error(label: int) -> None:
    with pytest.raises(RuntimeError, match=f"{label} is out of bounds"):
        losses.linear_cross_entropy(torch.randn(2, 16), torch.randn(50, 16), None, torch.tensor([3, label]))

"""The masked-LM loss equals torch's in values and gradients, and computes gradients only if they are needed."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from peer import EXACT, LOSS_TOLERANCE, assert_close, boundaries, documents, gradients, pair, run
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

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


@pytest.mark.parametrize(("chunk", "block"), [(3, 8), (3, 64), (10, 48), (10, 50)], ids=str)
@pytest.mark.parametrize("compiled", [False, True])
def test_linear_cross_entropy_equals_float64(chunk: int, block: int, compiled: bool) -> None:
    """Many small blocks as on CPUs, and one or two that span the vocabulary as on GPUs."""
    if compiled and shutil.which("g++") is None:
        pytest.skip("needs a C++ compiler")
    torch.manual_seed(4)
    inputs = [torch.randn(shape, requires_grad=True) for shape in ((10, 16), (50, 16), (50,))]
    labels = torch.randint(50, (10,))
    loss = losses.linear_cross_entropy(*inputs, labels, None, chunk, block, compiled)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = cross_entropy(torch.nn.functional.linear(*exact), labels)
    assert_close(loss, expected, EXACT)
    gradients = (torch.autograd.grad(*pair) for pair in ((loss, inputs), (expected, exact)))
    for gradient, reference in zip(*gradients, strict=True):
        assert_close(gradient, reference, EXACT)


def test_products_of_gpus_equal_those_of_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPUs multiply bfloat16 into float32. The kernel is replaced, since CPUs have none."""

    def multiply(total: Any, first: Any, second: Any, dtype: Any, *, out: Any, beta: float = 1) -> Any:
        assert total.dtype == dtype == torch.float32
        product = first.float() @ second.float()
        return out.copy_(product + total if beta else product)

    torch.manual_seed(4)
    inputs = [torch.randn(shape).bfloat16().requires_grad_() for shape in ((10, 16), (50, 16), (50,))]
    labels = torch.randint(50, (10,))
    results = []
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("addmm.dtype_out", multiply, "CPU")
        for is_gpu in (False, True):
            monkeypatch.setattr(losses, "_has_float32_product", lambda factor, is_gpu=is_gpu: is_gpu)
            loss = losses.linear_cross_entropy(*inputs, labels, None, 4, 16)
            results.append([loss, *torch.autograd.grad(loss, inputs)])
    for value, reference in zip(*results, strict=True):
        assert_close(value, reference, OUTPUT_TOLERANCE_OF[torch.bfloat16])


def test_loss_without_gradients_does_not_compute_them(monkeypatch: pytest.MonkeyPatch) -> None:
    own, peer = pair("ForMaskedLM")
    ids = torch.stack(documents(130, 130))
    batch = {"input_ids": ids, "labels": ids}
    with torch.no_grad():
        expected = peer(**batch).loss
    monkeypatch.setattr(losses, "_gradient", None)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert_close(own(**batch).loss, expected, LOSS_TOLERANCE)
    with pytest.raises(TypeError, match="not callable"):
        own(**batch)


@pytest.mark.parametrize("label", [-1, 50])
def test_label_outside_vocabulary_raises(label: int) -> None:
    with pytest.raises(RuntimeError, match=f"{label} is out of bounds"):
        losses.linear_cross_entropy(torch.randn(2, 16), torch.randn(50, 16), None, torch.tensor([3, label]))


# Positions of the labelled tokens


def packed_batch() -> dict[str, Any]:
    """Two documents of 90 and 40 tokens in a packed row; every third token has a label."""
    rows = documents(90, 40)
    ids = torch.cat(rows)[None]
    labels = ids.where(torch.arange(130) % 3 == 0, -100)
    return {"input_ids": ids, "cu_seqlens": boundaries(rows), "max_seqlen": 90, "labels": labels}


class Operations(TorchDispatchMode):
    """Record the names of the dispatched operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._schema.name.removeprefix("aten::"))
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("sparse_prediction", [True, False])
def test_given_label_positions_equal_computed_ones(sparse_prediction: bool) -> None:
    own, _ = pair("ForMaskedLM", sparse_prediction=sparse_prediction)
    batch = packed_batch()
    positions = torch.arange(0, 130, 3)
    for order in (positions, positions.flip(0)):
        results = []
        for given in ({}, {"label_positions": order}):
            own.zero_grad()
            loss = own.train()(**batch, **given).loss
            loss.backward()
            results.append((loss, gradients(own)))
        assert_close(results[0][0], results[1][0], EXACT)
        for name, gradient in results[0][1].items():
            assert_close(results[1][1][name], gradient, EXACT)
    own.eval()
    logits = run(own, **batch, label_positions=positions).logits
    assert torch.equal(logits, run(own, **batch).logits)


def test_given_label_positions_need_no_nonzero() -> None:
    """The number of nonzero elements is read from the device, as is a boolean index."""
    own, _ = pair("ForMaskedLM", sparse_prediction=True)
    for training in (True, False):
        own.train(training)
        for given, needs_nonzero in (({}, True), ({"label_positions": torch.arange(0, 130, 3)}, False)):
            with Operations() as operations:
                own(**packed_batch(), **given).loss.backward()
            assert ("nonzero" in operations.names) == needs_nonzero
            boolean_indices = {"masked_select", "_unsafe_masked_index"}
            assert not boolean_indices & set(operations.names)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (torch.arange(0, 129, 3), "got 43 that differ from the 44 labelled tokens"),
        (torch.arange(1, 130, 3), "got 43 that differ"),
        (torch.arange(0, 130, 3) // 2, "got 44 that differ"),
        (torch.arange(0, 130, 3).clamp(min=3), "got 44 that differ"),
        (torch.arange(0, 132, 3) + 3, "got 3 to 132 in 130 tokens"),
        (torch.arange(0, 132, 3) - 3, "got -3 to 126 in 130 tokens"),
        (torch.arange(0, 132, 3)[None], r"got \(1, 44\) of int64"),
        (torch.arange(0, 132, 3).int(), r"got \(44,\) of int32"),
    ],
)
def test_wrong_label_positions_raise(positions: torch.Tensor, message: str) -> None:
    own, _ = pair("ForMaskedLM")
    with pytest.raises(ValueError, match=message):
        own(**packed_batch(), label_positions=positions)

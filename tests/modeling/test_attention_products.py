"""Attention as matrix products against torch's scaled_dot_product_attention."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from llm_jp_modernbert.modeling import attention_products, attention_sdpa
from llm_jp_modernbert.modeling.attention_products import attend_by_products, is_faster
from llm_jp_modernbert.modeling.layout import build_layout

ROWS, HEADS, TOKENS, KEYS, HEAD_DIM, SCALE = 3, 4, 24, 40, 16, 0.3
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, float], torch.Tensor]


def by_torch(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


def computed(attend: Attend, dtype: torch.dtype, masked: bool) -> list[torch.Tensor]:
    """Output and gradients, from tensors in the order in memory that the model has: rows, tokens, heads."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(ROWS, length, HEADS, HEAD_DIM) for length in (TOKENS, KEYS, KEYS, TOKENS)]
    *given, weight = (torch.randn(shape, generator=generator).bfloat16().to(dtype).transpose(1, 2) for shape in shapes)
    # A mask of its own for every row, in which every query sees a key.
    barred = torch.rand(ROWS, 1, TOKENS, KEYS, generator=generator) < 0.5
    barred[..., 0] = False
    mask = torch.zeros(barred.shape, dtype=dtype).masked_fill(barred, float("-inf")) if masked else None
    query, key, value = (tensor.requires_grad_() for tensor in given)
    out = attend(query, key, value, mask, SCALE)
    return [out.detach(), *torch.autograd.grad(out, (query, key, value), weight)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("scores", "scores_backward"),
    # All at once, some rows, some heads of a row, some queries of a head, and a last part that is smaller.
    [
        (10**6, 10**6),
        (2 * HEADS * TOKENS * KEYS, 1),
        (3 * TOKENS * KEYS, 1),
        (7 * KEYS, 7 * KEYS),
        (7 * KEYS, 9 * KEYS),
        (1, 1),
    ],
)
def test_equals_torch(
    monkeypatch: pytest.MonkeyPatch, scores: int, scores_backward: int, dtype: torch.dtype, masked: bool
) -> None:
    monkeypatch.setattr(attention_products, "_SCORES", scores)
    monkeypatch.setattr(attention_products, "_SCORES_BACKWARD", scores_backward)
    found = computed(attend_by_products, dtype, masked)
    expected = computed(by_torch, torch.float32, masked)
    for own, reference in zip(found, expected, strict=True):
        assert own.dtype == dtype
        error = (own.float() - reference).norm() / reference.norm()
        assert error < TOLERANCE[dtype]


def test_keeps_the_order_in_memory() -> None:
    query = torch.randn(ROWS, TOKENS, HEADS, HEAD_DIM).transpose(1, 2)
    assert attend_by_products(query, query, query, None, SCALE).stride() == query.stride()


def test_no_part_holds_more_scores_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_products, "_SCORES", 5 * KEYS)
    seen = []
    softmax = torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda self, dim: seen.append(self.numel()) or softmax(self, dim))
    query, key = torch.randn(ROWS, HEADS, TOKENS, HEAD_DIM), torch.randn(ROWS, HEADS, KEYS, HEAD_DIM)
    attend_by_products(query, key, key, None, SCALE)
    assert max(seen) == 5 * KEYS
    assert sum(seen) == ROWS * HEADS * TOKENS * KEYS


@pytest.mark.skipif(not attention_products._has_idle_units(), reason="needs the units that these products are for")
def test_keys_of_a_head_are_multiplied_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_products, "_SCORES", 128 * 1024)
    query, key, value = torch.randn(3, 1, 1024, 1, 64).bfloat16().transpose(2, 3).requires_grad_()
    with torch.profiler.profile(record_shapes=True) as profiled:
        attend_by_products(query, key, value, None, SCALE).sum().backward()
    # A copy with each product is what torch makes of a single matrix that is not quite in its order.
    copied = [event.input_shapes[0] for event in profiled.events() if event.name == "aten::copy_"]
    assert copied
    assert [1, 64, 1024] not in copied


@pytest.mark.parametrize(
    ("dtype", "device", "tokens", "dropout", "idle_units", "expected"),
    [
        (torch.bfloat16, "cpu", 200, 0.0, True, True),
        (torch.bfloat16, "cpu", 200, 0.0, False, False),
        (torch.bfloat16, "cpu", 200, 0.1, True, False),
        (torch.bfloat16, "cpu", 20, 0.0, True, False),
        (torch.float32, "cpu", 200, 0.0, True, False),
        (torch.float16, "cpu", 200, 0.0, True, False),
        (torch.bfloat16, "meta", 200, 0.0, True, False),
    ],
)
def test_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    device: str,
    tokens: int,
    dropout: float,
    idle_units: bool,
    expected: bool,
) -> None:
    monkeypatch.setattr(attention_products, "_has_idle_units", lambda: idle_units)
    query = torch.empty(1, HEADS, tokens, HEAD_DIM, dtype=dtype, device=device)
    assert is_faster(query, query, dropout) == expected


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("lengths", [(300,), (70, 70, 70), (1, 90, 200, 9)])
def test_the_backend_gives_the_same_by_either(
    monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, ...], window: int | None
) -> None:
    total = sum(lengths)
    layout = build_layout((1, total), torch.device("cpu"), cu_seqlens=torch.tensor([0, *lengths]).cumsum(0))
    given = torch.randn(3, total, HEADS, HEAD_DIM).bfloat16()
    upstream = torch.randn(total, HEADS, HEAD_DIM).bfloat16()
    mask = attention_sdpa.mask(layout, window, torch.bfloat16)
    found = []
    for faster in (True, False):
        monkeypatch.setattr(attention_sdpa, "is_faster", lambda query, key, dropout, faster=faster: faster)
        inputs = [tensor.clone().requires_grad_() for tensor in given]
        out, _ = attention_sdpa.attend(*inputs, layout, mask, window, SCALE, 0.0)
        found.append([tensor.float() for tensor in (out, *torch.autograd.grad(out, inputs, upstream))])
    assert not torch.equal(found[0][0], found[1][0])
    for by_products, by_torch in zip(*found, strict=True):
        assert (by_products - by_torch).norm() < TOLERANCE[torch.bfloat16] * by_torch.norm()

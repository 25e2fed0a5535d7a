"""CPU tuning changes neither values nor gradients: matmul attention and the shared gradient of tied weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from peer import OUTPUT_TOLERANCE, assert_close, documents, pair
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.modeling import attention_sdpa, cpu_tuning, losses
from llm_jp_modernbert.modeling.attention import AttentionInputs
from llm_jp_modernbert.modeling.cpu_tuning import matmul_attention, prefers_matmul_attention, tied_lookup
from llm_jp_modernbert.modeling.layout import build_layout

ROWS, HEADS, TOKENS, KEYS, HEAD_DIM, SCALE = 3, 4, 24, 40, 16, 0.3
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}

# Attention

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, float], torch.Tensor]


def sdpa(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


def computed(attend: Attend, dtype: torch.dtype, masked: bool) -> list[torch.Tensor]:
    """Return output and gradients for tensors with the model's strides: rows, tokens, heads."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(ROWS, length, HEADS, HEAD_DIM) for length in (TOKENS, KEYS, KEYS, TOKENS)]
    *tensors, weight = (
        torch.randn(shape, generator=generator).bfloat16().to(dtype).transpose(1, 2) for shape in shapes
    )
    # Every row has its own mask, in which every query sees a key.
    blocked = torch.rand(ROWS, 1, TOKENS, KEYS, generator=generator) < 0.5
    blocked[..., 0] = False
    mask = torch.zeros(blocked.shape, dtype=dtype).masked_fill(blocked, float("-inf")) if masked else None
    query, key, value = (tensor.requires_grad_() for tensor in tensors)
    out = attend(query, key, value, mask, SCALE)
    return [out.detach(), *torch.autograd.grad(out, (query, key, value), weight)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("scores", "scores_backward"),
    # All at once, some rows, some heads of a row, some queries of a head, and a smaller last part.
    [
        (10**6, 10**6),
        (2 * HEADS * TOKENS * KEYS, 1),
        (3 * TOKENS * KEYS, 1),
        (7 * KEYS, 7 * KEYS),
        (7 * KEYS, 9 * KEYS),
        (1, 1),
    ],
)
def test_matmul_attention_equals_sdpa(
    monkeypatch: pytest.MonkeyPatch, scores: int, scores_backward: int, dtype: torch.dtype, masked: bool
) -> None:
    monkeypatch.setattr(cpu_tuning, "_MAX_SCORES", scores)
    monkeypatch.setattr(cpu_tuning, "_MAX_SCORES_BACKWARD", scores_backward)
    results = computed(matmul_attention, dtype, masked)
    expected = computed(sdpa, torch.float32, masked)
    for own, reference in zip(results, expected, strict=True):
        assert own.dtype == dtype
        error = (own.float() - reference).norm() / reference.norm()
        assert error < TOLERANCE[dtype]


def test_matmul_attention_works_in_torch_func() -> None:
    tensors = torch.randn(3, ROWS, HEADS, TOKENS, HEAD_DIM, generator=torch.Generator().manual_seed(0)).unbind()

    def value(attend: Attend, query: torch.Tensor) -> torch.Tensor:
        return attend(query, *tensors[1:], None, SCALE).square().sum()

    own, expected = (torch.func.grad(partial(value, attend))(tensors[0]) for attend in (matmul_attention, sdpa))
    assert_close(own, expected)


def test_matmul_attention_keeps_strides() -> None:
    query = torch.randn(ROWS, TOKENS, HEADS, HEAD_DIM).transpose(1, 2)
    assert matmul_attention(query, query, query, None, SCALE).stride() == query.stride()


def test_matmul_attention_limits_scores_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_tuning, "_MAX_SCORES", 5 * KEYS)
    sizes = []
    softmax = torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda self, dim: sizes.append(self.numel()) or softmax(self, dim))
    query, key = torch.randn(ROWS, HEADS, TOKENS, HEAD_DIM), torch.randn(ROWS, HEADS, KEYS, HEAD_DIM)
    matmul_attention(query, key, key, None, SCALE)
    assert max(sizes) == 5 * KEYS
    assert sum(sizes) == ROWS * HEADS * TOKENS * KEYS


@pytest.mark.skipif(
    not prefers_matmul_attention(*[torch.empty(1, 8, 512, 64, dtype=torch.bfloat16)] * 2, 0.0),
    reason="needs a CPU on which matmul attention is used",
)
def test_matmul_attention_does_not_copy_keys_per_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_tuning, "_MAX_SCORES", 128 * 1024)
    query, key, value = torch.randn(3, 1, 1024, 1, 64).bfloat16().transpose(2, 3).requires_grad_()
    with torch.profiler.profile(record_shapes=True) as profiled:
        matmul_attention(query, key, value, None, SCALE).sum().backward()
    # torch.matmul copies a single matrix with unusual strides for every product.
    copied = [event.input_shapes[0] for event in profiled.events() if event.name == "aten::copy_"]
    assert copied
    assert [1, 64, 1024] not in copied


@pytest.mark.parametrize(
    ("dtype", "device", "tokens", "dropout", "is_suitable_cpu", "expected"),
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
def test_matmul_attention_is_chosen_for_bfloat16_on_suitable_cpus(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    device: str,
    tokens: int,
    dropout: float,
    is_suitable_cpu: bool,
    expected: bool,
) -> None:
    monkeypatch.setattr(cpu_tuning, "_sdpa_ignores_bfloat16_instructions", lambda: is_suitable_cpu)
    query = torch.empty(1, HEADS, tokens, HEAD_DIM, dtype=dtype, device=device)
    assert prefers_matmul_attention(query, query, dropout) == expected


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("lengths", [(300,), (70, 70, 70), (1, 90, 200, 9)])
def test_sdpa_backend_equals_itself_with_matmul_attention(
    monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, ...], window: int | None
) -> None:
    total = sum(lengths)
    layout = build_layout((1, total), torch.device("cpu"), cu_seqlens=torch.tensor([0, *lengths]).cumsum(0))
    tensors = torch.randn(3, total, HEADS, HEAD_DIM).bfloat16()
    upstream = torch.randn(total, HEADS, HEAD_DIM).bfloat16()
    mask = attention_sdpa.build_mask(layout, window, torch.bfloat16)
    results = []
    for use_matmul in (True, False):
        monkeypatch.setattr(attention_sdpa, "prefers_matmul_attention", lambda *_, use_matmul=use_matmul: use_matmul)
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        out, _ = attention_sdpa.attend(AttentionInputs(*leaves, layout, mask, window, SCALE))
        results.append([tensor.float() for tensor in (out, *torch.autograd.grad(out, leaves, upstream))])
    assert not torch.equal(results[0][0], results[1][0])
    for matmul, reference in zip(*results, strict=True):
        assert (matmul - reference).norm() < TOLERANCE[torch.bfloat16] * reference.norm()


# Gradient of the tied vocabulary matrix


def batch() -> dict[str, torch.Tensor]:
    """Two labelled rows with a padding token, whose lookups have no gradient."""
    ids = torch.stack(documents(130, 130))
    ids[:, 5] = 0
    return {"input_ids": ids, "labels": ids.where(torch.arange(130) % 3 == 0, -100)}


def lookup(model: LlmJpModernBertForMaskedLM) -> nn.Embedding:
    """The token embeddings, whose weight is tied to the vocabulary layer."""
    return model.get_input_embeddings()


def test_tied_gradient_equals_transformers_in_buffer_of_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    own, peer = pair("ForMaskedLM")
    addresses, gradient_addresses = [], set()
    allocate = losses.empty_float32

    def empty_float32(shape: torch.Size) -> torch.Tensor:
        buffer = allocate(shape)
        addresses.append(buffer.data_ptr())  # keeping the tensor would prevent in-place accumulation
        return buffer

    monkeypatch.setattr(losses, "empty_float32", empty_float32)
    for _ in range(2):  # two batches accumulate
        own(**batch()).loss.backward()
        peer(**batch()).loss.backward()
        gradient_addresses.add(lookup(own).weight.grad.data_ptr())
        assert not lookup(own).weight.grad.is_sparse
        assert_close(lookup(own).weight.grad, peer.get_input_embeddings().weight.grad, OUTPUT_TOLERANCE)
    assert gradient_addresses == {addresses[0]}


def test_hooks_and_autograd_receive_whole_tied_gradient() -> None:
    own, peer = pair("ForMaskedLM")
    peer(**batch()).loss.backward()
    expected = peer.get_input_embeddings().weight.grad
    (gradient,) = torch.autograd.grad(own(**batch()).loss, [lookup(own).weight])
    assert_close(gradient, expected, OUTPUT_TOLERANCE)
    received = []
    lookup(own).weight.register_hook(received.append)
    own(**batch()).loss.backward()
    (gradient,) = received
    assert_close(gradient, expected, OUTPUT_TOLERANCE)


def test_further_use_of_tied_matrix_adds_to_gradient() -> None:
    own, peer = pair("ForMaskedLM")
    for model in (own, peer):
        weight = model.get_input_embeddings().weight
        (model(**batch()).loss + weight.square().sum()).backward()
    assert_close(lookup(own).weight.grad, peer.get_input_embeddings().weight.grad, OUTPUT_TOLERANCE)


@pytest.mark.parametrize("part", ["model", "decoder"])
def test_untied_matrices_have_dense_gradients(part: str) -> None:
    own, _ = pair("ForMaskedLM")
    own.decoder.weight = nn.Parameter(own.decoder.weight.detach().clone())
    own(**batch()).loss.backward()
    weight = lookup(own).weight if part == "model" else own.decoder.weight
    assert weight.grad.layout == torch.strided


def test_lookups_without_labels_have_dense_gradients() -> None:
    own, _ = pair("ForMaskedLM")
    own(input_ids=batch()["input_ids"]).logits.sum().backward()
    assert lookup(own).weight.grad.layout == torch.strided


@pytest.mark.parametrize("after_loss", [False, True])
def test_backward_without_loss_has_dense_gradient(after_loss: bool) -> None:
    own, peer = pair("ForMaskedLM")
    gradients = []
    for model in (own, peer):
        outputs = model(**batch(), output_hidden_states=True)
        if after_loss:
            outputs.loss.backward(retain_graph=True)
            model.zero_grad()
        outputs.hidden_states[-1].square().sum().backward()
        gradients.append(model.get_input_embeddings().weight.grad)
    own_gradient, expected = gradients
    assert own_gradient.layout == torch.strided
    assert_close(own_gradient / expected.abs().max(), expected / expected.abs().max(), OUTPUT_TOLERANCE)


def test_gradient_with_create_graph_equals_transformers() -> None:
    own, peer = pair("ForMaskedLM", "eager", "eager")
    own_gradient, expected = (
        torch.autograd.grad(model(**batch()).loss, [model.get_input_embeddings().weight], create_graph=True)[0]
        for model in (own, peer)
    )
    assert_close(own_gradient.detach(), expected.detach(), OUTPUT_TOLERANCE)


@pytest.mark.parametrize("case", ["frozen", "no_grad", "max_norm", "untied", "tied"])
def test_tied_lookup_applies_to_trained_tied_weights_only(case: str) -> None:
    own, _ = pair("ForMaskedLM")
    embedding, weight, ids = lookup(own), own.decoder.weight, batch()["input_ids"]
    if case == "max_norm":
        embedding.max_norm = 1.0
    elif case == "untied":
        weight = nn.Parameter(weight.detach().clone())
    weight.requires_grad_(case != "frozen")
    with torch.set_grad_enabled(case != "no_grad"):
        input_ids, embeddings, _ = tied_lookup(embedding, ids, weight)
    assert (input_ids is None) == (embeddings is not None) == (case == "tied")


@pytest.mark.parametrize("case", ["hook", "subclass"])
def test_modified_embeddings_are_called(case: str) -> None:
    class Doubled(nn.Embedding):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(ids)

    own, peer = pair("ForMaskedLM")
    for model in (own, peer):
        if case == "hook":
            model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: 2 * output)
        else:
            model.get_input_embeddings().__class__ = Doubled
    assert_close(own(**batch()).loss, peer(**batch()).loss, OUTPUT_TOLERANCE)

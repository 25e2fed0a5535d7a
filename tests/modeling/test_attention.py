"""Attention backends equal the reference, and the choice of the backend.

`varlen`, `flash_attention_2` and `flash_attention_3` have no CPU kernels. Here functions that implement their
documentation in the plainest way replace the kernels, so that arguments, windows and boundaries are checked; GPUs run
the kernels.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from itertools import pairwise
from typing import Any

import pytest
import torch
from peer import LOSS_TOLERANCE, assert_close, assert_gradients_close, boundaries, documents, own_class, pair, settings
from torch._dynamo.testing import CompileCounter
from torch.nn.attention import varlen as _registers_the_operator  # noqa: F401
from torch.nn.attention.flex_attention import flex_attention

from llm_jp_modernbert import LlmJpModernBertConfig
from llm_jp_modernbert.modeling import attention_backends, attention_flash3, attention_flex, attention_varlen
from llm_jp_modernbert.modeling.attention import AttentionInputs
from llm_jp_modernbert.modeling.attention_backends import (
    BACKENDS,
    LAYER_TYPES,
    choose_backend,
    choose_backends,
    require_backend,
)
from llm_jp_modernbert.modeling.layout import PackedLayout, build_layout

HEADS, HEAD_DIM, SCALE = 2, 16, 0.3
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 4e-2}
FAST = tuple(name for name in BACKENDS if name != "eager")

fast_backends = pytest.mark.parametrize("backend", FAST)
windows = pytest.mark.parametrize("window", [None, 0, 1, 64, 200])


def mask_of(*rows: str) -> torch.Tensor:
    """Build an attention mask from runs such as `"100x 5. 30x"`: x is a token, . is padding or a hole."""
    lines = [[cell[-1] == "x" for cell in row.split() for _ in range(int(cell[:-1]))] for row in rows]
    return torch.tensor(lines)


PACKED = {
    "one": (300,),
    "equal": (128, 128, 128),
    "around the window and the blocks": (1, 2, 63, 64, 65, 66, 127, 128, 129, 130),
    "single tokens": (1,) * 5,
    "single tokens between documents": (200, 1, 1, 150, 1),
    "many short": tuple(range(1, 40)),
    "empty documents": (0, 70, 0, 0, 3, 256, 0),
    "one token": (1,),
    "no token": (0,),
    "no document": (),
}
PADDED = {
    "right": mask_of("200x 100.", "300x", "1x 299."),
    "left": mask_of("100. 200x", "300x", "299. 1x"),
    "row without a token": mask_of("150x", "150.", "20. 130x"),
    "holes": mask_of("100x 80. 120x", "300x", "3. 50x 1. 50x 1. 195x"),
    "every other": torch.arange(600).view(2, 300) % 2 == 0,
    "no token": mask_of("20.", "20."),
}
LAYOUTS = [*(("packed", name) for name in PACKED), *(("padded", name) for name in PADDED)]

layouts = pytest.mark.parametrize(("form", "case"), LAYOUTS, ids=lambda value: value.replace(" ", "-"))


def layout_of(form: str, case: str, device: torch.device = CPU) -> PackedLayout:
    """Build the layout of a case."""
    if form == "padded":
        mask = PADDED[case].to(device)
        return build_layout(tuple(mask.shape), device, mask)
    cu_seqlens = torch.tensor([0, *PACKED[case]]).cumsum(0)
    return build_layout((1, int(cu_seqlens[-1])), device, cu_seqlens=cu_seqlens)


def attend(
    backend: str, layout: PackedLayout, window: int | None, dtype: torch.dtype, backward: bool
) -> list[torch.Tensor]:
    """Return the output for random inputs, the same in each dtype, and if `backward` their gradients."""
    generator = torch.Generator().manual_seed(0)
    total, device = len(layout.document_ids), layout.cu_seqlens.device
    query, key, value, weight = (
        (3 * torch.randn(total, HEADS, HEAD_DIM, generator=generator)).bfloat16().to(device, dtype) for _ in range(4)
    )
    tensors = [tensor.requires_grad_(backward) for tensor in (query, key, value)]
    mask = BACKENDS[backend].build_mask(layout, window, dtype)
    out, _ = BACKENDS[backend].attend(AttentionInputs(*tensors, layout, mask, window, SCALE))
    if not backward:
        return [out]
    gradients = torch.autograd.grad((out * weight).sum(), tensors, allow_unused=not total)
    return [out, *(torch.zeros_like(query) if gradient is None else gradient for gradient in gradients)]


def assert_equals_reference(
    backend: str, layout: PackedLayout, window: int | None, dtype: torch.dtype = torch.float32
) -> None:
    """Output and gradients are equal within the tolerance of the dtype, relative to the largest value of each."""
    reason = BACKENDS[backend].unsupported_reason(layout.cu_seqlens.device, dtype, HEAD_DIM, 0.0)
    backward = reason != "it has no backward pass on CPUs"
    results = attend(backend, layout, window, dtype, backward)
    expected = attend("eager", layout, window, torch.float32, backward)
    for own, reference in zip(results, expected, strict=True):
        assert own.dtype == dtype
        scale = max(1.0, float(reference.abs().max())) if reference.numel() else 1.0
        assert_close(own, reference, TOLERANCE[dtype] * scale)


# Stand-ins


def weights_by_documentation(
    query: torch.Tensor,
    key: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_length: int,
    scale: float,
    window_size: tuple[int, int],
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield the slice and the weights `(heads, queries, keys)` of each document; -1 in the window means unlimited."""
    assert cu_seqlens.dtype == torch.int32
    assert int(cu_seqlens[0]) == 0
    assert int(cu_seqlens[-1]) == len(query)
    left, right = window_size
    for start, end in pairwise(cu_seqlens.tolist()):
        assert end - start <= max_length
        document = slice(start, end)
        scores = torch.einsum("qhd,khd->hqk", query[document], key[document]) * scale
        positions = torch.arange(end - start)
        distance = positions[None, :] - positions[:, None]
        if left >= 0:
            scores = scores.masked_fill(distance < -left, float("-inf"))
        if right >= 0:
            scores = scores.masked_fill(distance > right, float("-inf"))
        yield document, scores.softmax(-1)


def attention_by_documentation(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *arguments: Any
) -> torch.Tensor:
    """Multiply the weights by the values."""
    weighted = weights_by_documentation(query, key, *arguments)
    return torch.cat([torch.einsum("hqk,khd->qhd", weights, value[document]) for document, weights in weighted])


def varlen_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    is_causal: bool,
    scale: float,
    window_size: Any,
    enable_gqa: bool = False,
    *unused: None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Replace the operator behind torch.nn.attention.varlen."""
    assert not is_causal
    assert not enable_gqa
    assert set(unused) <= {None}
    assert torch.equal(cu_seq_q, cu_seq_k)
    assert max_q == max_k
    out = attention_by_documentation(query, key, value, cu_seq_q, max_q, scale, window_size)
    return out, query.new_zeros(query.shape[1], len(query)), torch.zeros(2, dtype=torch.uint64)


def varlen_backward_kernel(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _out: torch.Tensor,
    _lse: torch.Tensor,
    cu_seq_q: torch.Tensor,
    _cu_seq_k: torch.Tensor,
    max_q: int,
    _max_k: int,
    _is_causal: bool,
    _rng_state: torch.Tensor,
    scale: float,
    window_size: Any,
) -> tuple[torch.Tensor, ...]:
    """Replace the backward pass of that operator."""
    gradients = [torch.zeros_like(tensor) for tensor in (query, key, value)]
    for document, weights in weights_by_documentation(query, key, cu_seq_q, max_q, scale, window_size):
        weight_gradient = torch.einsum("qhd,khd->hqk", gradient[document], value[document])
        score_gradient = weights * (weight_gradient - (weights * weight_gradient).sum(-1, keepdim=True))
        gradients[0][document] = torch.einsum("hqk,khd->qhd", score_gradient, key[document]) * scale
        gradients[1][document] = torch.einsum("hqk,qhd->khd", score_gradient, query[document]) * scale
        gradients[2][document] = torch.einsum("hqk,qhd->khd", weights, gradient[document])
    return tuple(gradients)


def flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    **unused: Any,
) -> torch.Tensor:
    """Replace the function of flash-attn 2.8."""
    assert not unused
    assert not causal
    assert torch.equal(cu_seqlens_q, cu_seqlens_k)
    assert max_seqlen_q == max_seqlen_k
    assert dropout_p == 0
    return attention_by_documentation(q, k, v, cu_seqlens_q, max_seqlen_q, softmax_scale, window_size)


def flash_attn_3_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    seqused_q: torch.Tensor | None = None,
    seqused_k: torch.Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    qv: torch.Tensor | None = None,
    q_descale: torch.Tensor | None = None,
    k_descale: torch.Tensor | None = None,
    v_descale: torch.Tensor | None = None,
    window_size: tuple[int, int] = (-1, -1),
    attention_chunk: int = 0,
    softcap: float = 0.0,
    num_splits: int = 1,
    pack_gqa: bool | None = None,
    deterministic: bool = False,
    sm_margin: int = 0,
    return_attn_probs: bool = False,
) -> torch.Tensor:
    """Replace the function of FlashAttention-3, whose module is `flash_attn_interface`."""
    unused = (seqused_q, seqused_k, qv, q_descale, k_descale, v_descale, pack_gqa)
    assert set(unused) == {None}
    assert (causal, attention_chunk, softcap, num_splits) == (False, 0, 0.0, 1)
    assert (deterministic, sm_margin, return_attn_probs) == (False, 0, False)
    assert torch.equal(cu_seqlens_q, cu_seqlens_k)
    assert max_seqlen_q == max_seqlen_k
    return attention_by_documentation(q, k, v, cu_seqlens_q, max_seqlen_q, softmax_scale, window_size)


def replace_module(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: Any) -> None:
    """Let imports of a module return the attributes."""
    module = types.ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replace kernels that do not run on CPUs."""
    replace_module(monkeypatch, "flash_attn", flash_attn_varlen_func=flash_attn_varlen_func)
    replace_module(monkeypatch, "flash_attn_interface", flash_attn_varlen_func=flash_attn_3_varlen_func)
    with torch.library._scoped_library("torch_attn", "IMPL") as library:
        library.impl("_varlen_attn", varlen_kernel, "CPU")
        library.impl("_varlen_attn_backward", varlen_backward_kernel, "CPU")
        yield


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Reset the compiler before and after the test."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def allow_everywhere(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """Let models use a backend on any device and with any dtype."""
    allowed = dataclasses.replace(BACKENDS[backend], unsupported_reason=lambda *_: None)
    monkeypatch.setitem(attention_backends.BACKENDS, backend, allowed)


# Equality


@fast_backends
@windows
@layouts
@pytest.mark.usefixtures("stand_ins")
def test_backend_equals_reference(backend: str, window: int | None, form: str, case: str) -> None:
    assert_equals_reference(backend, layout_of(form, case), window)


@windows
@layouts
def test_sdpa_in_chunks_equals_reference(
    monkeypatch: pytest.MonkeyPatch, window: int | None, form: str, case: str
) -> None:
    """Without gradients on a CPU, long rows are computed in chunks."""
    monkeypatch.setattr("llm_jp_modernbert.modeling.cpu_tuning._CHUNK", 1)
    layout = layout_of(form, case)
    with torch.no_grad():
        own, expected = (attend(name, layout, window, torch.float32, False)[0] for name in ("sdpa", "eager"))
    assert_close(own, expected, TOLERANCE[torch.float32])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@fast_backends
@windows
@layouts
def test_backend_equals_reference_on_gpu(
    backend: str, window: int | None, form: str, case: str, dtype: torch.dtype
) -> None:
    if missing := BACKENDS[backend].missing_requirement():
        pytest.skip(f"needs {missing}")
    if reason := BACKENDS[backend].unsupported_reason(CUDA, dtype, HEAD_DIM, 0.0):
        pytest.skip(reason)
    assert_equals_reference(backend, layout_of(form, case, CUDA), window, dtype)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("case", ["around the window and the blocks", "holes"])
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_flex_attention_equals_reference(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Only the compiled kernel skips invisible blocks and does not evaluate the mask in fully visible ones."""
    layout = layout_of("padded" if case == "holes" else "packed", case)
    monkeypatch.setattr(attention_flex, "flex_attention", torch.compile(flex_attention, dynamic=False))
    for window in (None, 64):
        assert_equals_reference("flex_attention", layout, window)


@windows
@layouts
def test_flex_block_mask_covers_visible_pairs(window: int | None, form: str, case: str) -> None:
    """No visible pair is in a skipped block, and all pairs of a fully visible block are visible."""
    layout = layout_of(form, case)
    total = len(layout.document_ids)
    blocks = BACKENDS["flex_attention"].build_mask(layout, window, torch.float32)
    same = layout.document_ids[:, None] == layout.document_ids
    distance = (layout.offsets[:, None] - layout.offsets).abs()
    pairs = same if window is None else same & (distance <= window)
    size = -(-total // 128)
    partly, fully = (
        blocks_from_lists(counts, indices, size).repeat_interleave(128, 0).repeat_interleave(128, 1)[:total, :total]
        for counts, indices in (
            (blocks.kv_num_blocks, blocks.kv_indices),
            (blocks.full_kv_num_blocks, blocks.full_kv_indices),
        )
    )
    assert not (partly & fully).any()
    assert not (pairs & ~partly & ~fully).any()
    assert not (fully & ~pairs).any()
    if window is not None:
        near = (torch.arange(total)[:, None] // 128 - torch.arange(total) // 128).abs() <= -(-window // 128)
        assert not (partly & ~near).any()


def blocks_from_lists(counts: torch.Tensor, indices: torch.Tensor, size: int) -> torch.Tensor:
    """Convert the lists of a `BlockMask` into `(size, size)` bool."""
    visible = torch.zeros(size, size, dtype=torch.bool)
    for row in range(size):
        visible[row, indices[0, 0, row, : int(counts[0, 0, row])].long()] = True
    return visible


@pytest.mark.parametrize("backend", ["varlen", "flash_attention_2", "flash_attention_3", "flex_attention"])
@pytest.mark.usefixtures("stand_ins")
def test_model_equals_reference_with_every_backend(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    allow_everywhere(monkeypatch, backend)
    own, _ = pair("Model", backend)
    reference, _ = pair("Model", "eager")
    rows = documents(150, 1, 40, 129)
    inputs = {"input_ids": torch.cat(rows)[None], "cu_seqlens": boundaries(rows)}
    with torch.set_grad_enabled(backend != "flex_attention"):
        states, expected = own(**inputs).last_hidden_state, reference(**inputs).last_hidden_state
    assert_close(states, expected)
    if states.requires_grad:
        states.square().mean().backward()
        expected.square().mean().backward()
        assert_gradients_close(own, reference)


@pytest.mark.usefixtures("stand_ins")
def test_layer_types_use_their_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Global layers call FlashAttention-3, local ones torch's kernel; the result is that of the reference."""
    windows: dict[str, list[Any]] = {"flash_attention_3": [], "varlen": []}
    for name, called in windows.items():
        original = BACKENDS[name]

        def record(inputs: AttentionInputs, called: list[Any] = called, original: Any = original) -> Any:
            called.append(inputs.window)
            return original.attend(inputs)

        changed = dataclasses.replace(original, attend=record, unsupported_reason=lambda *_: None)
        monkeypatch.setitem(attention_backends.BACKENDS, name, changed)
    own, _ = pair("Model", {"full_attention": "flash_attention_3", "sliding_attention": "varlen"})
    reference, _ = pair("Model", "eager")
    rows = documents(150, 1, 40, 129)
    inputs = {"input_ids": torch.cat(rows)[None], "cu_seqlens": boundaries(rows)}
    states, expected = own(**inputs).last_hidden_state, reference(**inputs).last_hidden_state
    assert_close(states, expected)
    assert windows == {"flash_attention_3": [None, None], "varlen": [64, 64]}


# Choice of the backend


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM"])
def test_requested_backend_is_kept(head: str, tmp_path: Any) -> None:
    """On construction, loading and later changes; without a request the forward pass chooses."""
    config = LlmJpModernBertConfig(**settings())
    model = own_class(head)(config)
    assert model.config._attn_implementation is None
    model.save_pretrained(tmp_path)
    assert own_class(head).from_pretrained(tmp_path).config._attn_implementation is None
    for name in ("eager", "sdpa", "varlen", "flex_attention"):
        assert own_class(head).from_pretrained(tmp_path, attn_implementation=name).config._attn_implementation == name
        model.set_attn_implementation(name)
        assert model.config._attn_implementation == name
        with torch.no_grad():
            assert choose_backend(name, CPU, torch.float32, 64, 0.0) == ("sdpa" if name == "varlen" else name)


def test_requested_backends_of_layer_types_are_kept(tmp_path: Any) -> None:
    """On construction, loading and later changes; they are not saved."""
    chosen = {"full_attention": "eager", "sliding_attention": "sdpa"}
    config = LlmJpModernBertConfig(**settings(), attn_implementation=chosen)
    model = own_class("ForMaskedLM")(config)
    assert model.config._attn_implementation == chosen
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.config._attn_implementation is None
    assert type(model).from_pretrained(tmp_path, attn_implementation=chosen).config._attn_implementation == chosen
    loaded.set_attn_implementation(chosen)
    assert loaded.config._attn_implementation == chosen
    loaded.set_attn_implementation({"": "eager"})
    assert loaded.config._attn_implementation == "eager"
    loaded.set_attn_implementation({"full_attention": "varlen"})
    backends = choose_backends(loaded.config._attn_implementation, LAYER_TYPES, CPU, torch.float32, 64, 0.0)
    assert backends == {"full_attention": "sdpa", "sliding_attention": "sdpa"}


def test_wrong_layer_type_or_backend_is_named() -> None:
    for implementation, message in (
        ({"global": "sdpa"}, "attn_implementation: 'global' is not one of full_attention, sliding_attention"),
        ({"full_attention": "flash_attention_9"}, 'attn_implementation="flash_attention_9"` is not supported'),
    ):
        model = own_class("Model")(LlmJpModernBertConfig(**settings()))
        with pytest.raises(ValueError, match=message):
            model.set_attn_implementation(implementation)
        with pytest.raises(ValueError, match=message):
            own_class("Model")(LlmJpModernBertConfig(**settings(), attn_implementation=implementation))
        assert model.config._attn_implementation is None


@pytest.mark.parametrize(
    ("device", "dtype", "head_dim", "dropout", "capability", "expected"),
    [
        ("cuda", torch.bfloat16, 64, 0.0, (9, 0), "varlen"),
        ("cuda", torch.float16, 64, 0.0, (8, 0), "varlen"),
        ("cuda", torch.bfloat16, 64, 0.0, (7, 5), "sdpa"),
        ("cuda", torch.float32, 64, 0.0, (9, 0), "sdpa"),
        ("cuda", torch.bfloat16, 64, 0.1, (9, 0), "sdpa"),
        ("cuda", torch.bfloat16, 60, 0.0, (9, 0), "sdpa"),
        ("cuda", torch.bfloat16, 512, 0.0, (9, 0), "sdpa"),
        ("cpu", torch.bfloat16, 64, 0.0, (9, 0), "sdpa"),
        ("mps", torch.bfloat16, 64, 0.0, (9, 0), "sdpa"),
    ],
)
def test_default_backend_by_device(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    dtype: torch.dtype,
    head_dim: int,
    dropout: float,
    capability: tuple[int, int],
    expected: str,
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    assert choose_backend(None, torch.device(device), dtype, head_dim, dropout) == expected
    monkeypatch.setattr(attention_varlen, "_HAS_WINDOWS", False)
    assert choose_backend(None, torch.device(device), dtype, head_dim, dropout) == "sdpa"


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("varlen", (CPU, torch.bfloat16, 64, 0.0), "it runs on CUDA devices, not on cpu"),
        ("varlen", (CUDA, torch.float32, 64, 0.0), "it computes in float16 or bfloat16, not in float32"),
        ("varlen", (CUDA, torch.bfloat16, 64, 0.1), "it does not support dropout of attention weights"),
        ("flash_attention_2", (CUDA, torch.float32, 64, 0.1), "it computes in float16 or bfloat16, not in float32"),
        ("flash_attention_2", (CUDA, torch.float16, 60, 0.0), "head_dim must be a multiple of 8"),
        ("flash_attention_3", (CPU, torch.bfloat16, 64, 0.0), "it runs on CUDA devices, not on cpu"),
        ("flash_attention_3", (CUDA, torch.bfloat16, 64, 0.1), "it does not support dropout of attention weights"),
        ("flash_attention_3", (CUDA, torch.bfloat16, 64, 0.0), "it needs an NVIDIA GPU of compute capability 8 or 9"),
        ("flex_attention", (CPU, torch.float32, 64, 0.0), "it has no backward pass on CPUs"),
        ("flex_attention", (CUDA, torch.float32, 64, 0.1), "it does not support dropout of attention weights"),
        ("flex_attention", (CUDA, torch.float32, 8, 0.0), "head_dim must be at least 16, not 8"),
    ],
)
def test_unsupported_batch_falls_back_to_sdpa_with_warning(
    monkeypatch: pytest.MonkeyPatch, name: str, arguments: tuple[Any, ...], reason: str
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(attention_backends.logger, "warning_once", warnings.append)
    assert choose_backend(name, *arguments) == "sdpa"
    assert len(warnings) == 1
    assert reason in warnings[0]
    assert name in warnings[0]


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_jp_modernbert.modeling.attention_flash.find_spec", lambda _name: None)
    for load in (
        lambda: require_backend("flash_attention_2"),
        lambda: own_class("Model")(LlmJpModernBertConfig(**settings(), attn_implementation="flash_attention_2")),
    ):
        with pytest.raises(
            ImportError, match=r"^attn_implementation='flash_attention_2' needs .*llm-jp-modernbert\[f"
        ):
            load()
    monkeypatch.setattr(attention_varlen, "_HAS_WINDOWS", False)
    with pytest.raises(ImportError, match=r"^attn_implementation='varlen' needs torch 2\.11 or later"):
        require_backend("varlen")


@pytest.mark.parametrize("source", ["package", "early package", "hub"])
def test_kernel_of_flash_attention_3(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """The package, whose early versions return a tuple, takes precedence over the Hub, which is asked once."""
    requests: list[tuple[str, int]] = []

    def get_kernel(repository: str, version: int) -> Any:
        requests.append((repository, version))
        return types.SimpleNamespace(flash_attn_varlen_func=flash_attn_3_varlen_func)

    attention_flash3._hub_kernel.cache_clear()
    replace_module(monkeypatch, "kernels", get_kernel=get_kernel)
    if source != "hub":
        is_early = source == "early package"

        def package_func(*tensors: torch.Tensor, **options: Any) -> Any:
            out = flash_attn_3_varlen_func(*tensors, **options)
            return (out, None) if is_early else out

        replace_module(monkeypatch, "flash_attn_interface", flash_attn_varlen_func=package_func)
    require_backend("flash_attention_3")
    for window in (None, 64):
        assert_equals_reference("flash_attention_3", layout_of("packed", "equal"), window)
    assert requests == ([] if source != "hub" else [("kernels-community/flash-attn3", 1)])
    attention_flash3._hub_kernel.cache_clear()


def test_missing_kernel_of_flash_attention_3_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_kernel(repository: str, version: int) -> Any:
        raise FileNotFoundError("no build for torch 2.13")

    monkeypatch.setattr(attention_flash3, "find_spec", lambda _name: None)
    with pytest.raises(ImportError, match=r"^attn_implementation='flash_attention_3' needs the kernels package"):
        require_backend("flash_attention_3")
    monkeypatch.undo()
    replace_module(monkeypatch, "kernels", get_kernel=get_kernel)
    layout = layout_of("packed", "one")
    with pytest.raises(ImportError, match=r"needs a build of kernels-community/flash-attn3 .*: no build for torch"):
        BACKENDS["flash_attention_3"].build_mask(layout, None, torch.bfloat16)


@pytest.mark.parametrize("backend", ["varlen", "flex_attention"])
def test_training_with_dropout_uses_supporting_backend(backend: str) -> None:
    """These kernels do not support dropout, so in training another backend is used."""
    own, _ = pair("Model", backend, attention_dropout=0.5)
    ids = torch.stack(documents(50))
    with torch.no_grad():
        assert torch.equal(own(ids)[0], own(ids)[0])
        own.layers[1].attn.train().out_drop.eval()
        assert not torch.equal(own(ids)[0], own(ids)[0])


# Compilation

BATCHES = ((150, 1, 40), (300,), (7,) * 20, (64, 65, 200, 3), (500, 24))


@pytest.mark.parametrize(("backend", "training"), [("varlen", True), ("varlen", False), ("flex_attention", False)])
@pytest.mark.parametrize("whole", [pytest.param(True, marks=pytest.mark.slow), False], ids=["model", "layers"])
@pytest.mark.usefixtures("stand_ins", "fresh_compiler")
def test_other_lengths_do_not_recompile(
    monkeypatch: pytest.MonkeyPatch, backend: str, training: bool, whole: bool
) -> None:
    """The second batch makes the number of tokens dynamic; further document counts and lengths do not recompile.

    Per batch there are two graphs of layers: the first layer, which has no norm, and a local one.
    """
    allow_everywhere(monkeypatch, backend)
    own, _ = pair("ForMaskedLM", backend, num_hidden_layers=2)
    reference, _ = pair("ForMaskedLM", "eager", num_hidden_layers=2)
    counter = CompileCounter()
    for layer in () if whole else own.model.layers:
        layer.compile(backend=counter, fullgraph=True)
    model = torch.compile(own, backend=counter) if whole else own
    counts = []
    for lengths in BATCHES:
        rows = documents(*lengths)
        inputs = {"input_ids": torch.cat(rows)[None], "cu_seqlens": boundaries(rows)}
        inputs["labels"] = inputs["input_ids"]
        with torch.set_grad_enabled(training), torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
            loss, expected = model.train(training)(**inputs).loss, reference.train(training)(**inputs).loss
        assert_close(loss, expected, LOSS_TOLERANCE)
        if training:
            own.zero_grad()
            reference.zero_grad()
            loss.backward()
            expected.backward()
            assert_gradients_close(own, reference)
        counts.append(counter.frame_count)
    assert 0 < counts[0] < counts[1]
    assert counts[1:] == [counts[1]] * (len(BATCHES) - 1)
    if not whole:
        assert counts[1] == 4

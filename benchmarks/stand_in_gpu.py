"""A GPU without hardware: training steps with the shapes, dtypes and code paths of a GPU, but without data.

The device is torch's experimental Python backend (`PrivateUse1`) under FakeTensorMode. Code that asks for the type of
the device, or for CUDA, takes the branches of a GPU, and autocast casts as on CUDA, so the operations are those of a
GPU. Attention is one opaque operation per pass, as a kernel of FlashAttention is. CUDA itself cannot be imitated on a
CPU build of torch: autograd asks the device for streams, which such a build lacks.

`inductor_for` makes torch.compile plan its kernels by the rules for Triton on an H100 and run the graphs as they are.
It uses internal interfaces of torch, since no public one reports the planned kernels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from functorch.compile import make_boxed_func
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from transformers import PreTrainedModel

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.modeling import attention_backends
from llm_jp_modernbert.modeling.attention import AttentionBackend, AttentionInputs

DEVICE = "standin"
ATTENTION = "varlen"  # the backend that is replaced, the default on GPUs

# The operations of a transformer in torch's list of CUDA casts
# (https://docs.pytorch.org/docs/stable/amp.html#cuda-op-specific-behavior).
_LOWER = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "scaled_dot_product_attention")
_FLOAT32 = (
    *("layer_norm", "native_layer_norm", "exp", "expm1", "log", "log1p", "rsqrt", "reciprocal", "logsumexp"),
    *("softmax.int", "log_softmax.int", "sum", "sum.dim_IntList", "cumsum", "nll_loss", "linalg_vector_norm"),
)
_WIDEST = ("addcmul", "addcdiv", "dot")
# Properties of an H100 that Inductor reads (data sheet of the SXM version, compute capability 9.0).
_H100 = SimpleNamespace(
    name="H100",
    major=9,
    minor=0,
    multi_processor_count=132,
    regs_per_multiprocessor=65_536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    warp_size=32,
    total_memory=80 << 30,
)


class _Module:
    """The functions that torch calls in the module `torch.standin`."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        # FakeTensorMode would create tensors on an available device.
        return False

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def manual_seed_all(self, seed: int) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


@contextmanager
def opaque_attention() -> Iterator[None]:
    """Make `varlen` attention an operation that computes nothing, on every device."""
    with patch.dict(attention_backends.BACKENDS, {ATTENTION: AttentionBackend(_attend, lambda *_: None)}):
        yield


@contextmanager
def stand_in_gpu() -> Iterator[None]:
    """Tensors created inside have no data, `DEVICE` exists, and `varlen` attention computes nothing."""
    _register()
    is_cuda = property(lambda tensor: tensor.device.type == DEVICE)
    with opaque_attention(), patch.object(FakeTensor, "is_cuda", is_cuda), FakeTensorMode(allow_non_fake_inputs=True):
        yield


def model_on_stand_in(config: Any) -> LlmJpModernBertForMaskedLM:
    """A model in training mode on the device, inside of `stand_in_gpu`."""
    # Initialization reads data.
    with torch.device(DEVICE), patch.object(PreTrainedModel, "init_weights", lambda self: None):
        model = LlmJpModernBertForMaskedLM(config)
    model.tie_weights()
    model.config._attn_implementation = ATTENTION
    model.train()
    return model


@cache
def _register() -> list[torch.library.Library]:
    """Register the device and its autocast, once per process. The result must be kept alive."""
    _setup_privateuseone_for_python_backend(DEVICE, _Module())
    fall_through = torch.library.Library("_", "IMPL")
    fall_through.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    library = torch.library.Library("aten", "IMPL")
    for name in (*_LOWER, *_FLOAT32, *_WIDEST):
        base, _, overload = name.partition(".")
        operation = getattr(getattr(torch.ops.aten, base), overload or "default")
        library.impl(operation.name(), partial(_autocast, operation, name), "AutocastPrivateUse1")
    return [fall_through, library]


def _autocast(operation: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    """Call an operation with its tensors cast as CUDA's autocast does."""
    dtype = torch.get_autocast_dtype(DEVICE) if name in _LOWER else torch.float32
    if name in _WIDEST:
        dtypes = [argument.dtype for argument in args if isinstance(argument, torch.Tensor)]
        dtype = max(dtypes, key=lambda dtype: dtype.itemsize)

    def cast(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() and tensor.device.type == DEVICE else tensor

    args, kwargs = tree_map_only(torch.Tensor, cast, (args, kwargs))
    with torch.autocast(DEVICE, enabled=False):
        return operation(*args, **kwargs)


def _attend(inputs: AttentionInputs) -> tuple[torch.Tensor, None]:
    return attention(inputs.query, inputs.key, inputs.value, inputs.layout.cu_seqlens)[0], None


@torch.library.custom_op("benchmarks::attention", mutates_args=())
def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_seqlens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Allocate what FlashAttention returns: the output and the log-normalizers `(heads, total_tokens)` float32."""
    return torch.empty_like(query), query.new_empty(query.shape[1::-1], dtype=torch.float32)


@torch.library.custom_op("benchmarks::attention_backward", mutates_args=())
def attention_backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    log_normalizer: torch.Tensor,
    cu_seqlens: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Allocate the gradients of query, key and value."""
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _save_for_backward(ctx: Any, inputs: tuple[torch.Tensor, ...], output: tuple[torch.Tensor, ...]) -> None:
    query, key, value, cu_seqlens = inputs
    ctx.save_for_backward(query, key, value, *output, cu_seqlens)


def _backward(ctx: Any, grad: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:
    return *attention_backward(grad, *ctx.saved_tensors), None


# Both functions only allocate, so they describe the shapes as well.
attention.register_fake(attention._init_fn)
attention_backward.register_fake(attention_backward._init_fn)
attention.register_autograd(_backward, setup_context=_save_for_backward)


class _Planned(BaseException):
    """Ends Inductor's work when the kernels are planned; not an Exception, which Inductor would wrap."""


@contextmanager
def inductor_for(run_graph: Callable[[Any, list[tuple[str, int]]], Callable[..., Any]]) -> Iterator[None]:
    """Let torch.compile plan kernels for an H100 instead of generating code.

    Args:
        run_graph: `run_graph(graph, kernels)` returns the function that is called in place of the compiled graph;
            `kernels` are the names of the planned kernels, empty for generated ones, and the bytes they move.
    """
    import torch._functorch.config as autograd_config
    import torch._inductor.config as inductor_config
    from torch._dynamo import device_interface
    from torch._inductor import compile_fx, scheduler, utils
    from torch._inductor.codegen import common
    from torch._inductor.codegen.triton import TritonScheduling
    from torch._inductor.codegen.wrapper import PythonWrapperCodegen

    class Interface(device_interface.DeviceInterface):
        get_device_properties = staticmethod(lambda device=None: _H100)
        get_compute_capability = staticmethod(lambda device=None: 90)
        is_available = staticmethod(lambda: True)
        current_device = staticmethod(lambda: 0)
        is_bf16_supported = staticmethod(lambda including_emulation=False: True)

    planned: list[tuple[str, int]] = []

    def end(nodes: list[Any]) -> list[Any]:
        # Nodes without bytes are views of the outputs of others.
        sizes = {node: size for node in nodes if (size := node.get_read_write_buffers_sizes())}
        planned[:] = [(str(getattr(node.node, "op_overload", "")), size) for node, size in sizes.items()]
        raise _Planned

    def inner_compile(graph: Any, inputs: Any, **options: Any) -> Any:
        try:
            compile_fx.compile_fx_inner(copy.deepcopy(graph), inputs, **options)
        except _Planned:
            return make_boxed_func(run_graph(graph, list(planned)))
        raise RuntimeError("Inductor did not plan kernels")

    for name in (DEVICE, f"{DEVICE}:0"):
        device_interface.register_interface_for_device(name, Interface)
    common.register_backend_for_device(DEVICE, TritonScheduling, PythonWrapperCodegen)
    common.register_device_op_overrides(DEVICE, common.DeviceOpOverrides())
    with ExitStack() as stack:
        stack.enter_context(patch.object(utils, "GPU_TYPES", [*utils.GPU_TYPES, DEVICE]))
        stack.enter_context(patch.object(scheduler, "has_triton", lambda: True))
        compiled = partial(compile_fx.compile_fx, inner_compile=inner_compile)
        stack.enter_context(patch.object(compile_fx, "compile_fx", compiled))
        stack.enter_context(inductor_config.patch(_post_fusion_custom_pass=end, fx_graph_cache=False))
        stack.enter_context(autograd_config.patch(enable_autograd_cache=False))
        yield

"""Parts of the GPU benchmark that look into a step: a profile, the attention kernels and the vocabulary head."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.nn.attention import activate_flash_attention_impl, restore_flash_attention_impl
from torch.profiler import ProfilerActivity

from llm_jp_modernbert.core.errors import first_line
from llm_jp_modernbert.modeling.attention import AttentionInputs
from llm_jp_modernbert.modeling.attention_backends import BACKENDS
from llm_jp_modernbert.modeling.flops import forward_flops, training_flops
from llm_jp_modernbert.modeling.layout import build_layout
from llm_jp_modernbert.modeling.losses import linear_cross_entropy

from ..gpu_run import Row, Run
from ..measure import COMPILED, OURS
from ..models import Models
from .training_step import MASKED, Batch, document_lengths, random_documents

GLOBAL, LOCAL = "full_attention", "sliding_attention"

# Parts of the names of kernels, in the order of precedence.
_GROUPS = {
    "attention": ("flash", "fmha", "attention"),
    "matrix products": ("gemm", "cutlass", "nvjet", "xmma", "::mm", "::addmm", "::bmm"),
    "generated kernels": ("triton", "cpp_fused"),
    "optimizer": ("multi_tensor", "adam", "foreach"),
    "copies": ("memcpy", "memset", "copy_"),
}
_SHOWN_KERNELS = 15


def profile(run: Run) -> Iterator[Row]:
    """Where the time of a training step goes: kernels by group, and the time in which the GPU is idle."""
    for shape in run.sizes.shapes:
        if run.out_of_time:
            yield {"shape": shape, "skipped": "out of time"}
            continue
        models = run.models if shape == run.models.settings["shape"] else run.models_of(shape)
        batch = random_documents(models.config.vocab_size, run.sizes.tokens, run.sizes.lengths[0], seed=0)
        step, steps = training_step(models, run.compiled, batch), run.sizes.profiled_steps
        step()
        seconds = run.seconds(step, steps)
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if run.device == "cuda" else [])]
        with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
            for _ in range(steps):
                step()
            run.synchronize()
        milliseconds, synchronizations = profiled(profiler.key_averages(), run.device, steps)
        groups: Counter[str] = Counter()
        for name, time in milliseconds.items():
            groups[_group(name)] += time
        yield {
            "shape": shape,
            "ms per step": 1000 * seconds,
            "tokens/s": run.sizes.tokens / seconds,
            "MFU": run.utilization(training_flops(models.config, batch.lengths, batch.predicted) / seconds),
            "ms by group": dict(groups.most_common()),
            "idle ms": max(0.0, 1000 * seconds - sum(milliseconds.values())),
            "synchronizations per step": synchronizations,
            "kernels": {name[:100]: time for name, time in milliseconds.most_common(_SHOWN_KERNELS)},
        }


def profiled(events: Iterable[Any], device: str, steps: int) -> tuple[Counter[str], float]:
    """Milliseconds of each kernel (operation on a CPU) and number of synchronizations, both per step."""
    milliseconds: Counter[str] = Counter()
    synchronizations = 0
    for event in events:
        is_kernel = event.device_type.name == "CUDA"
        # Annotated regions, such as an optimizer's step, contain kernels, which are events of their own.
        if (is_kernel and not event.is_user_annotation) or device == "cpu":
            time = event.self_device_time_total if is_kernel else event.self_cpu_time_total
            milliseconds[event.key] += time / 1000 / steps
        elif "Synchronize" in event.key:
            synchronizations += event.count
    return milliseconds, synchronizations / steps


def _group(name: str) -> str:
    lower = name.lower()
    return next((group for group, parts in _GROUPS.items() if any(part in lower for part in parts)), "other")


def training_step(models: Models, compiled: bool, batch: Batch) -> Callable[[], None]:
    """Make a step of forward pass, backward pass, clipping and AdamW on a packed batch that is on the device."""
    model = models.candidates("float32", compiled)[COMPILED if compiled else OURS].train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    packed = {**batch.packed(), "num_items_in_batch": torch.tensor(batch.predicted)}
    inputs = {name: value.to(models.device) if torch.is_tensor(value) else value for name, value in packed.items()}

    def step() -> None:
        with torch.autocast(models.device, dtype=torch.bfloat16):
            loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def attention(run: Run) -> Iterator[Row]:
    """One global and one local layer's attention with every installed kernel, forward and backward pass."""
    kernels: list[tuple[str, str | None]] = [(name, None) for name in BACKENDS if name != "eager"]
    kernels += [("varlen", version) for version in ("FA3", "FA4")]
    # Proven kernels first: after one that leaves the GPU unusable, no other runs.
    for (name, version), longest, kind in itertools.product(kernels, run.sizes.lengths, (GLOBAL, LOCAL)):
        row: Row = {"layer": kind, "documents up to": longest, "kernel": " ".join(filter(None, (name, version)))}
        reason = "out of time" if run.out_of_time else _missing(run, name, version)
        if reason is not None:
            yield {**row, "skipped": reason}
            continue
        try:
            lengths = document_lengths(run.sizes.tokens, longest, seed=0)
            yield {**row, **_attention_times(run, name, kind, lengths)}
        except Exception as error:
            yield {**row, "skipped": f"{type(error).__name__}: {first_line(error)[:150]}"}
        finally:
            if version is not None:
                restore_flash_attention_impl()


def _missing(run: Run, name: str, version: str | None) -> str | None:
    """Say why a kernel cannot run here, or activate its version and return None."""
    backend, config = BACKENDS[name], run.models.config
    missing = backend.missing_requirement()
    if missing is not None:
        return f"needs {missing}"
    head_dim = config.hidden_size // config.num_attention_heads
    reason = backend.unsupported_reason(torch.device(run.device), torch.bfloat16, head_dim, 0.0)
    if reason is None and version is not None:
        try:
            activate_flash_attention_impl(version)
        except (RuntimeError, ImportError, ValueError) as error:
            reason = first_line(error)[:150]
    return reason


def _attention_times(run: Run, name: str, kind: str, lengths: list[int]) -> Row:
    config, backend, tokens = run.models.config, BACKENDS[name], sum(lengths)
    boundaries = torch.tensor([0, *lengths]).cumsum(0).int().to(run.device)
    layout = build_layout((1, tokens), torch.device(run.device), cu_seqlens=boundaries, max_seqlen=max(lengths))
    layout = layout.with_lengths()
    size, window = (tokens, config.num_attention_heads, -1), config.local_attention // 2 if kind == LOCAL else None
    query, key, value, grad = (
        torch.randn(tokens, config.hidden_size, device=run.device, dtype=torch.bfloat16).view(size) for _ in range(4)
    )
    tensors = [tensor.requires_grad_() for tensor in (query, key, value)]
    mask = backend.build_mask(layout, window, torch.bfloat16)
    inputs = AttentionInputs(query, key, value, layout, mask, window, query.shape[-1] ** -0.5)
    forward = run.seconds(lambda: backend.attend(inputs), 10)
    both = run.seconds(lambda: torch.autograd.grad(backend.attend(inputs)[0], tensors, grad), 10)
    one_layer = type(config)(**{**config.to_dict(), "num_hidden_layers": 1, "layer_types": [kind]})
    # Documents of one token have the same products and next to no pairs.
    operations = forward_flops(one_layer, lengths, 0) - forward_flops(one_layer, [1] * tokens, 0)
    return {
        "forward ms": 1000 * forward,
        "backward ms": 1000 * (both - forward),
        "forward TFLOP/s": operations / forward / 1e12,
        # Useful work: two products in the forward pass, four in the backward pass.
        "backward TFLOP/s": 2 * operations / (both - forward) / 1e12,
    }


def head(run: Run) -> Iterator[Row]:
    """The vocabulary loss with several sizes of chunks and blocks, forward and backward pass."""
    config, rows = run.models.config, int(MASKED * run.sizes.tokens)
    hidden = torch.randn(rows, config.hidden_size, device=run.device, requires_grad=True)
    weight = torch.randn(config.vocab_size, config.hidden_size, device=run.device).mul_(0.02).requires_grad_()
    bias = torch.zeros(config.vocab_size, device=run.device, requires_grad=True)
    labels = torch.randint(config.vocab_size, (rows,), device=run.device)
    operations = training_flops(config, [], rows)
    sizes: list[dict[str, int]] = [{}]  # the defaults
    sizes += [{"chunk": chunk, "block": block} for chunk in run.sizes.chunks for block in run.sizes.blocks]
    for size in sizes:
        row: Row = {"chunk": "default", "block": "default", **size}
        if run.out_of_time:
            yield {**row, "skipped": "out of time"}
            continue

        def step(size: dict[str, int] = size) -> None:
            with torch.autocast(run.device, dtype=torch.bfloat16):
                loss = linear_cross_entropy(hidden, weight, bias, labels, compiled=run.compiled, **size)
            torch.autograd.grad(loss, (hidden, weight, bias))

        run.free()
        try:
            seconds = run.seconds(step, 5)
        except torch.OutOfMemoryError:
            yield {**row, "skipped": "out of memory"}
            continue
        yield {
            **row,
            "ms": 1000 * seconds,
            "TFLOP/s": operations / seconds / 1e12,
            "peak MB": run.peak_megabytes(),
        }

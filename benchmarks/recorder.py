"""Counts of what a step asks of its device: operations, kernels, traffic, waits of the host and saved activations."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PRODUCTS, ATTENTION, OTHER = "matrix products", "attention", "other"

_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
# Operations that read some rows of their first input, or write all of it.
_GATHERS = ("embedding", "index_select", "gather", "index", "index_put_", "index_add", "scatter_")
_WRITES = ("copy_", "fill_", "zero_")
_WITHOUT_KERNEL = ("empty", "empty_like", "new_empty", "empty_strided", "detach", "lift_fresh", "_unsafe_view")
# Operations whose result the host must read before it continues.
_READS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal")

_ROOT = Path(__file__).parents[1]
_FOLDERS = {
    "": [_ROOT / name for name in ("modeling", "training", "llm_jp_modernbert")],
    "transformers/": [Path(transformers.__file__).parent],
    "torch/optim/": [Path(torch.optim.__file__).parent],
}


class Recorder(TorchDispatchMode):
    """Counts the operations that reach a device, while it is entered.

    Traffic counts every input and output of an operation once, which is its minimum without caches. Operations inside
    of a graph of torch.compile are replaced by the kernels planned for it.

    Args:
        device: type of the device.
        predicted: number of labelled tokens: the rows that `nonzero` returns where tensors have no data.

    Attributes:
        operations: calls by name, views included.
        kernels: operations that start a kernel, by group.
        bytes: bytes that these kernels read and write, by group.
        waits: synchronizations of the host by reason and line of code.
        graphs: compiled graphs.
    """

    def __init__(self, device: str, predicted: int = 0) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.kernels: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.waits: Counter[tuple[str, str]] = Counter()
        self.graphs = 0
        self._device, self._predicted = device, predicted
        self._in_graph = False
        self._weights: dict[int, torch.Tensor] = {}  # and their copies, by storage; kept, so that no number is reused

    def clear(self) -> None:
        """Set the counts to zero; compiled graphs are kept."""
        for counter in (self.operations, self.kernels, self.bytes, self.waits):
            counter.clear()

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let torch.compile work while this mode is entered."""
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run and count an operation."""
        kwargs = kwargs or {}
        if func.namespace == "prim":
            return func(*args, **kwargs)
        name = func._schema.name.partition("::")[2]
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        reason = self._reason_to_wait(name, inputs, args, kwargs)
        if reason is not None:
            self.waits[reason, _line()] += 1
        result = self._run(func, name, args, kwargs)
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if name == "_to_copy" and _storage(args[0]) in self._weights:
            self._weights[_storage(result)] = result
        if not self._in_graph and any(tensor.device.type == self._device for tensor in (*inputs, *outputs)):
            self.operations[name] += 1
            if not (func.is_view or torch.Tag.inplace_view in func.tags or name in _WITHOUT_KERNEL):
                group = _group(name)
                self.kernels[group] += 1
                self.bytes[group] += _traffic(name, inputs, outputs)
        return result

    def _run(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """Run an operation; those that read data get an answer on a device without data."""
        if self._device != "cpu" and name == "nonzero":
            return args[0].new_empty((self._predicted, args[0].dim()), dtype=torch.int64)
        if self._device != "cpu" and name == "_local_scalar_dense" and args[0].device.type == self._device:
            return {torch.bool: True}.get(args[0].dtype, 1.0 if args[0].is_floating_point() else 1)
        return func(*args, **kwargs)

    def _reason_to_wait(self, name: str, inputs: list[torch.Tensor], args: Any, kwargs: Any) -> str | None:
        """Say why the host waits for the device in an operation, or return None."""
        is_on_device = any(tensor.device.type == self._device for tensor in inputs)
        if name in ("_to_copy", "copy_"):
            target = kwargs.get("device") or args[0].device if name == "_to_copy" else args[0].device
            source = args[0].device if name == "_to_copy" else args[1].device
            non_blocking = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
            if source.type == target.type or self._device not in (source.type, target.type) or non_blocking:
                return None
            return "copy to the host" if source.type == self._device else "copy to the device"
        if not is_on_device:
            return None
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            has_mask = any(index is not None and index.dtype is torch.bool for index in args[1])
            return f"{name} with a mask" if has_mask else None
        if name == "repeat_interleave":
            return None if kwargs.get("output_size") is not None else name
        return name if name in _READS else None

    def run_graph(self, graph: Any, kernels: list[tuple[str, int]]) -> Callable[..., Any]:
        """Return a function that runs a graph of torch.compile as it is, and counts its planned kernels.

        Args:
            graph: the graph.
            kernels: name (empty if generated) and bytes of each kernel.
        """
        self.graphs += 1

        def run(*inputs: Any) -> Any:
            self.operations["compiled graph"] += 1
            for name, size in kernels:
                self.kernels[_group(name)] += 1
                self.bytes[_group(name)] += size
            outer, self._in_graph = self._in_graph, True
            try:
                return graph(*inputs)
            finally:
                self._in_graph = outer

        return run

    @contextmanager
    def saved_bytes(self, model: nn.Module) -> Iterator[list[int]]:
        """Collect the bytes of each tensor kept for the backward pass, without parameters and their copies."""
        sizes: list[int] = []
        self._weights = {_storage(parameter): parameter for parameter in model.parameters()}
        saved: dict[int, torch.Tensor] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            number = _storage(tensor)
            if number not in self._weights and number not in saved:
                saved[number] = tensor
                sizes.append(tensor.untyped_storage().nbytes())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield sizes
        self._weights = {}


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _group(name: str) -> str:
    """The group of an operation or kernel, such as `mm`, `aten.mm.out` or `extern_kernels.mm`."""
    if any(product in name.split(".") for product in _PRODUCTS):
        return PRODUCTS
    return ATTENTION if "attention" in name else OTHER


def _traffic(name: str, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> int:
    if name in _GATHERS:
        # index_put_ and its like move the rows of the last input.
        return 2 * _size(inputs[-1] if name in ("index_put_", "index_add", "scatter_") else outputs[0])
    return sum(map(_size, inputs[1:] if name in _WRITES else inputs)) + sum(map(_size, outputs))


def _size(tensor: torch.Tensor) -> int:
    # Expanded tensors have a smaller storage.
    return min(tensor.numel() * tensor.itemsize, tensor.untyped_storage().nbytes())


def _line() -> str:
    """The innermost line of this library, of transformers or of an optimizer that is being executed."""
    frame = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        for name, folders in _FOLDERS.items():
            for folder in folders:
                if folder in path.parents:
                    return f"{name}{path.relative_to(_ROOT if not name else folder).as_posix()}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "backward pass"

"""Chooses the backend and the data type of a model."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal, get_args

from llm_jp_modernbert.core.errors import UsageError

from ..loading import OUR_MODEL_TYPES

BackendName = Literal["auto", "torch", "onnx", "openvino"]
"""PyTorch, ONNX Runtime, OpenVINO, or the fastest one that is installed."""

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]

_PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}
_DTYPES = {"onnx": ("float32",), "openvino": ("float32", "bfloat16")}


def choose_backend(backend: BackendName, dtype: str, device: str, model_type: str) -> str:
    """The backend of a model.

    `auto` is torch on accelerators. On a CPU it is OpenVINO, or ONNX Runtime if only that is installed, since both
    are faster than torch for short texts.

    Args:
        backend: the requested backend.
        dtype: data type of the weights.
        device: device of the computation.
        model_type: `model_type` of the model's configuration; only ModernBERT has graphs.

    Raises:
        UsageError: the requested backend is not installed, or does not support the device, data type or model.
    """
    if backend == "torch":
        return backend
    if backend == "auto":
        if device != "cpu" or model_type not in OUR_MODEL_TYPES:
            return "torch"
        usable = (name for name in ("openvino", "onnx") if dtype in _DTYPES[name] and find_spec(_PACKAGES[name]))
        return next(usable, "torch")
    if backend not in _PACKAGES:
        raise UsageError(f"backend is {backend!r}; choose one of {', '.join(get_args(BackendName))}.")
    if find_spec(_PACKAGES[backend]) is None:
        raise UsageError(f"backend {backend}: not installed. pip install 'llm-jp-modernbert[{backend}]'.")
    if device != "cpu":
        raise UsageError(f"backend {backend} runs on CPUs, not on {device}. Choose the backend torch, or device cpu.")
    if model_type not in OUR_MODEL_TYPES:
        raise UsageError(f"backend {backend} is for ModernBERT, and this is {model_type}. Choose the backend torch.")
    if dtype not in _DTYPES[backend]:
        raise UsageError(f"backend {backend} has no {dtype}. Choose one of {', '.join(_DTYPES[backend])}, or torch.")
    return backend


def choose_dtype(dtype: DtypeName, saved: object, device: str) -> str:
    """The data type of the weights: the requested one; for `auto` that of the checkpoint.

    On a CPU, `auto` is bfloat16 only for a bfloat16 checkpoint and a processor with instructions for it, and float32
    otherwise: without them bfloat16 is slow, and its rounding changes 1 to 2 % of the predictions of a float32
    checkpoint.

    Args:
        dtype: the requested data type.
        saved: `dtype` of the model's configuration, such as `torch.bfloat16`; None if unknown.
        device: device of the computation.

    Raises:
        UsageError: the data type is none of these.
    """
    import torch

    if dtype not in get_args(DtypeName):
        raise UsageError(f"dtype is {dtype!r}; choose one of {', '.join(get_args(DtypeName))}.")
    if dtype != "auto":
        return dtype
    name = str(saved or "float32").removeprefix("torch.")
    if device != "cpu":
        return name
    capabilities = torch.cpu.get_capabilities()
    has_bfloat16 = any(capabilities.get(key) for key in ("avx512_bf16", "amx_bf16"))
    return "bfloat16" if name == "bfloat16" and has_bfloat16 else "float32"

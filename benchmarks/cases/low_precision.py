"""Tokens per second of a masked language model on a CPU in lower precision, against transformers in float32.

All have the same weights and give logits at every position, as the ONNX file does. Beside the speed stands how often
the first candidate over the fill-mask prompts is that of float32.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import nn
from transformers import AutoModelForMaskedLM

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.evaluation.tasks.fill_mask import PROMPTS
from llm_jp_modernbert.inference.fill_mask import with_mask_token
from llm_jp_modernbert.inference.loading import load_masked_lm, load_tokenizer
from llm_jp_modernbert.inference.packed_weights import load_fast_masked_lm
from llm_jp_modernbert.publishing.export_onnx import export_onnx
from llm_jp_modernbert.training.recipe.shapes import model_config

from ..measure import Case, report
from ..options import Repeats, Shape

PEER = "transformers, float32"

Logits = Callable[[torch.Tensor], np.ndarray | torch.Tensor]


class Int8Linear(nn.Module):
    """A linear layer with int8 weights by output channel and int8 inputs by tensor: torch's dynamic quantisation."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scales = weight.abs().amax(1).clamp_min(1e-12).double() / 127
        rounded = torch.quantize_per_channel(
            weight, scales, torch.zeros(len(weight), dtype=torch.long), 0, torch.qint8
        )
        self.packed = torch.ops.quantized.linear_prepack(rounded, linear.bias)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """`(…, in_features)` → `(…, out_features)`, float32."""
        return torch.ops.quantized.linear_dynamic(inputs, self.packed)


def benchmark(
    tokenizer: Annotated[str, typer.Option()],
    model: Annotated[str | None, typer.Option(help="A trained model, in the place of random weights.")] = None,
    shape: Shape = "base",
    longest: Annotated[int, typer.Option(help="Tokens of the prompts to compare on, at most.", min=16)] = 128,
    onnx: Annotated[bool, typer.Option(help="Whether to export and run ONNX files as well.")] = True,
    repeats: Repeats = 5,
    out: Annotated[Path | None, typer.Option(help="Folder for the JSON.", file_okay=False)] = None,
) -> None:
    """Tokens per second on a CPU in lower precision, at 1 × 32 and 4 × 128 tokens, against transformers in float32."""
    vocabulary: Any = load_tokenizer(tokenizer)
    with TemporaryDirectory() as folder:
        if model is None:
            torch.manual_seed(0)
            LlmJpModernBertForMaskedLM(model_config(shape, len(vocabulary))).save_pretrained(folder, format="plain")
        else:
            load_masked_lm(model, dtype="float32").save_pretrained(folder, format="plain")
        vocabulary.save_pretrained(folder)
        runs = _runs(folder, onnx)
        texts = [json.loads(line)["text"] for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
        rows = [vocabulary(with_mask_token(one, vocabulary.mask_token)).input_ids for one in texts]
        rows = [row for row in rows if len(row) <= longest]
        first = _first(runs[PEER], rows, vocabulary.mask_token_id)
        same = {
            name: f"{sum(a == b for a, b in zip(_first(run, rows, vocabulary.mask_token_id), first, strict=True))}"
            f" of {len(first)}"
            for name, run in runs.items()
        }
        for batch, length in ((1, 32), (4, 128)):
            ids = torch.randint(len(vocabulary), (batch, length), generator=torch.Generator().manual_seed(0))
            candidates = {name: _timed(run, ids) for name, run in runs.items()}
            settings = {"weights": model or f"random, {shape}", "batch": f"{batch} × {length}", "same first": same}
            file = None if out is None else out / f"low-precision-{batch}x{length}.json"
            report(Case("low precision", "tokens", PEER, candidates, settings), repeats, file)


def _runs(folder: str, onnx: bool) -> dict[str, Logits]:
    peer = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    quantized = load_masked_lm(folder, dtype="float32", device="cpu")
    for module in list(quantized.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, Int8Linear(child))
    models = {
        PEER: peer,
        "float32": load_masked_lm(folder, dtype="float32", device="cpu"),
        "bfloat16": load_masked_lm(folder, dtype="bfloat16", device="cpu"),
        "float16 weights (--fast)": load_fast_masked_lm(folder),
        "int8, torch": quantized,
    }
    runs: dict[str, Logits] = {name: _in_torch(model) for name, model in models.items()}
    if onnx:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Else its threads would be busy waiting while the others are timed.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        for file in export_onnx(Path(folder), int8=True):
            session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
            runs[f"{'int8' if 'int8' in file.name else 'float32'}, onnxruntime"] = _in_onnxruntime(session)
    return runs


def _in_torch(model: Any) -> Logits:
    def run(ids: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = model(input_ids=ids).logits
        return logits

    return run


def _in_onnxruntime(session: Any) -> Logits:
    def run(ids: torch.Tensor) -> np.ndarray:
        inputs = {"input_ids": ids.numpy(), "attention_mask": torch.ones_like(ids).numpy()}
        logits: np.ndarray = session.run(["logits"], inputs)[0]
        return logits

    return run


def _timed(run: Logits, ids: torch.Tensor) -> Callable[[int], float]:
    return lambda turn: float(ids.numel() * bool(len(run(ids))))


def _first(run: Logits, rows: list[list[int]], mask: int) -> list[int]:
    """The likeliest token of each row's one mask."""
    return [int(run(torch.tensor([row]))[0][row.index(mask)].argmax()) for row in rows]

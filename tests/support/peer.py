"""A small model of this package and transformers' ModernBERT with the same weights, test batches, and comparisons."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import ModernBertConfig

import llm_jp_modernbert
from llm_jp_modernbert import LlmJpModernBertConfig

VOCAB, HIDDEN, LAYERS, HEADS, WINDOW = 500, 64, 4, 4, 64
HEAD_NAMES = (
    "Model",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
)
LOSS_TOLERANCE, OUTPUT_TOLERANCE, EXACT = 1e-5, 1e-4, 1e-6
# Backends that run on a CPU with and without gradients.
BACKENDS = ("eager", "sdpa")
# Lengths of the documents of `batch`.
LENGTHS = (150, 1, 40)
# With freshly initialized weights attention is almost uniform, which would hide a wrong mask.
WEIGHT_SCALE = 3.0


def settings(**changes: Any) -> dict[str, Any]:
    """Return settings of both configurations: four layers, the first and the last global."""
    return {
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "global_attn_every_n_layers": 3,
        "local_attention": 2 * WINDOW,
        "max_position_embeddings": 2048,
        "global_rope_theta": 160_000.0,
        "local_rope_theta": 10_000.0,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "cls_token_id": 1,
        "eos_token_id": 2,
        "sep_token_id": 2,
    } | changes


def own_class(head: str) -> Any:
    """Return this package's class of a head."""
    return getattr(llm_jp_modernbert, f"LlmJpModernBert{head}")


def peer_class(head: str) -> Any:
    """Return transformers' class of a head."""
    return getattr(transformers, f"ModernBert{head}")


def pair(
    head: str, implementation: str | dict[str, str] = "sdpa", peer_implementation: str = "sdpa", **changes: Any
) -> tuple[Any, Any]:
    """Build our and transformers' model with the same weights, in evaluation mode."""
    config = settings(**changes)
    torch.manual_seed(0)
    peer = peer_class(head)(ModernBertConfig(**config, attn_implementation=peer_implementation)).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.mul_(WEIGHT_SCALE) if parameter.dim() > 1 else parameter.add_(torch.randn_like(parameter) * 0.1)
    own = own_class(head)(LlmJpModernBertConfig(**config, attn_implementation=implementation)).eval()
    own.load_state_dict(peer.state_dict())
    return own, peer


def documents(*lengths: int, seed: int = 0) -> list[torch.Tensor]:
    """Draw random ids, `(length,)` each, without special tokens."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCAB, (length,), generator=generator) for length in lengths]


def padded(rows: list[torch.Tensor], side: str = "right", fill: int = 0) -> torch.Tensor:
    """Pad rows to one tensor `(batch, length)`."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill, padding_side=side)


def padding_mask(rows: list[torch.Tensor], side: str = "right") -> torch.Tensor:
    """Build the attention mask of `padded`."""
    return padded([torch.ones_like(row) for row in rows], side)


def boundaries(rows: list[torch.Tensor]) -> torch.Tensor:
    """Build `cu_seqlens` of concatenated rows."""
    return torch.tensor([0, *(len(row) for row in rows)]).cumsum(0).int()


def restarting_positions(rows: list[torch.Tensor]) -> torch.Tensor:
    """Build `(1, total_tokens)` positions that start at 0 in every row."""
    return torch.cat([torch.arange(len(row)) for row in rows])[None]


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the largest absolute difference; the shapes must be equal."""
    assert first.shape == second.shape, f"shapes {tuple(first.shape)} and {tuple(second.shape)} differ"
    return float((first.detach().float() - second.detach().float()).abs().max()) if first.numel() else 0.0


def assert_close(first: torch.Tensor, second: torch.Tensor, tolerance: float = OUTPUT_TOLERANCE) -> None:
    """Check equality within an absolute tolerance; NaN differs from everything."""
    error = difference(first, second)
    assert error <= tolerance, f"differ by {error:.3g}, more than {tolerance:.3g}"


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """Return the gradients of all parameters by name; zeros for parameters without one."""
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
    }


def assert_gradients_close(own: Any, peer: Any, tolerance: float = OUTPUT_TOLERANCE) -> None:
    """Check that gradients are equal, relative to the largest value of each parameter's gradient (at least 1)."""
    first, second = gradients(own), gradients(peer)
    assert first.keys() == second.keys()
    for name, gradient in second.items():
        error = difference(first[name], gradient)
        allowed = tolerance * max(1.0, float(gradient.abs().max()))
        assert error <= allowed, f"gradient of {name} differs by {error:.3g}, more than {allowed:.3g}"


def batch() -> dict[str, torch.Tensor]:
    """Return three documents of different lengths, padded on the right."""
    rows = documents(*LENGTHS)
    return {"input_ids": padded(rows), "attention_mask": padding_mask(rows)}


def run(model: Any, **inputs: Any) -> Any:
    """Run a forward pass without gradients."""
    with torch.no_grad():
        return model(**inputs)

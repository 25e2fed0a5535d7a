"""Rotary position embeddings for packed rows (RoFormer, arXiv 2104.09864), rotate-half form as in ModernBERT."""

from __future__ import annotations

import torch
from transformers.models.modernbert.modeling_modernbert import ModernBertRotaryEmbedding


class LlmJpModernBertRotaryEmbedding(ModernBertRotaryEmbedding):
    """Frequencies of global and local layers, in every RoPE type that transformers knows."""

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Compute the frequencies anew, as loading does: the model is created without data, and no file has them."""
        fresh = type(self)(self.config)
        for name, frequencies in fresh.named_buffers():
            getattr(self, name).copy_(frequencies)

    def tables(self, positions: torch.Tensor, layer_type: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines for one forward.

        Args:
            positions: `(total_tokens,)`.
            layer_type: `"full_attention"` or `"sliding_attention"`.

        Returns:
            cos, sin: `(total_tokens, 1, head_dim / 2)` float32; the rotation itself happens in float32.
        """
        if len(positions) == 0 and self.rope_type[layer_type] != "default":
            positions = positions.new_zeros(1)  # adaptive RoPE types look for the largest position
        like = torch.empty(0, dtype=torch.float32, device=positions.device)
        cos, sin = self(like, positions[None], layer_type)
        half = cos.shape[-1] // 2
        return cos[0, :, None, :half], sin[0, :, None, :half]


def rotate(
    query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate queries and keys, `(total_tokens, heads, head_dim)`, by the tables of their positions."""
    return _rotate(query, cos, sin), _rotate(key, cos, sin)


def _rotate(tensor: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = tensor.float().chunk(2, -1)
    rotated = torch.cat(
        [torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)], -1
    )
    return rotated.to(tensor.dtype)

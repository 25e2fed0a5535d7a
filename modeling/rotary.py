"""Rotary position embeddings for packed rows (RoFormer, arXiv 2104.09864), rotate-half form as in ModernBERT."""

from __future__ import annotations

import torch
from transformers.models.modernbert.modeling_modernbert import ModernBertRotaryEmbedding


class LlmJpModernBertRotaryEmbedding(ModernBertRotaryEmbedding):
    """Cosine and sine tables, computed once per forward and kind of layer.

    The frequencies, with every RoPE type that transformers knows (default, linear, dynamic, yarn …), are transformers'
    own.
    """

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Compute the frequencies anew: loading a checkpoint creates the model without data, and they are not in it."""
        fresh = type(self)(self.config)
        for name, frequencies in fresh.named_buffers():
            getattr(self, name).copy_(frequencies)

    def forward(
        self, hidden_states: torch.Tensor, positions: torch.Tensor, layer_type: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tables for `positions`.

        Args:
            hidden_states: any tensor on the device of the model; its dtype is not used.
            positions: `(total_tokens,)`.
            layer_type: `"full_attention"` or `"sliding_attention"`.

        Returns:
            cos, sin: `(total_tokens, 1, head_dim / 2)` float32; the rotation itself happens in float32.
        """
        if len(positions) == 0:  # dynamic RoPE types take the largest position
            positions = (
                positions.new_zeros(1)[:0] if self.rope_type[layer_type] == "default" else positions.new_zeros(1)
            )
        cos, sin = super().forward(hidden_states.new_empty(0, dtype=torch.float32), positions[None], layer_type)
        half = cos.shape[-1] // 2
        return cos[0, :, None, :half], sin[0, :, None, :half]


def rotate(query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Rotate queries and keys, `(total_tokens, heads, head_dim)`, by the tables of their positions."""
    return _rotate(query, cos, sin), _rotate(key, cos, sin)


def _rotate(tensor: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = tensor.float().chunk(2, -1)
    rotated = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    return rotated.to(tensor.dtype)

"""The choice of the attention backend. Each backend is two functions of one signature:

`mask(layout, window, dtype)` is called once per forward and kind of layer, and `attend` in every layer:

    attend(query, key, value, layout, mask, window, scale, dropout) -> (out, weights)

* query, key, value, out: `(total_tokens, heads, head_dim)`.
* layout: the documents of the packed row; attention never crosses from one into another.
* mask: what the backend's own `mask` returned.
* window: a token sees this many tokens to either side, inclusive; None for global layers.
* scale: factor on the scores, usually head_dim ** -0.5.
* dropout: probability of dropping an attention weight; 0 outside training.
* weights: `(batch, heads, length, length)` from `eager`, None from all others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import attention_eager, attention_sdpa, attention_varlen


@dataclass(frozen=True)
class AttentionBackend:
    """One way to compute attention over a packed row."""

    mask: Callable[..., Any]
    attend: Callable[..., Any]
    needs_lengths: bool = False
    """Whether it loops over documents, and so needs their lengths on the host."""


BACKENDS = {
    "eager": AttentionBackend(attention_eager.mask, attention_eager.attend),
    "sdpa": AttentionBackend(attention_sdpa.mask, attention_sdpa.attend, needs_lengths=True),
    "flash_attention_2": AttentionBackend(attention_varlen.mask, attention_varlen.attend),
}


def get_backend(name: str) -> AttentionBackend:
    """The backend of that `attn_implementation`.

    Raises:
        ValueError: no such backend.
    """
    if name not in BACKENDS:
        raise ValueError(
            f"attn_implementation={name!r} is not one of {', '.join(BACKENDS)}. "
            "(flash_attention_2 needs the flash-attn package: pip install 'llm-jp-modernbert[flash]'.)"
        )
    return BACKENDS[name]

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

# Not `from . import …`, which transformers does not follow when it fetches custom code from a repository.
from .attention_eager import attend as attend_eager
from .attention_eager import mask as mask_eager
from .attention_sdpa import attend as attend_sdpa
from .attention_sdpa import mask as mask_sdpa
from .attention_varlen import attend as attend_varlen
from .attention_varlen import mask as mask_varlen


@dataclass(frozen=True)
class AttentionBackend:
    """One way to compute attention over a packed row."""

    mask: Callable[..., Any]
    attend: Callable[..., Any]
    needs_lengths: bool = False
    """Whether it loops over documents, and so needs their lengths on the host."""


BACKENDS = {
    "eager": AttentionBackend(mask_eager, attend_eager),
    "sdpa": AttentionBackend(mask_sdpa, attend_sdpa, needs_lengths=True),
    "flash_attention_2": AttentionBackend(mask_varlen, attend_varlen),
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

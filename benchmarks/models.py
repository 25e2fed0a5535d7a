"""Models of this library and of transformers with the same random weights, each made when it is first asked for."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import ModernBertForMaskedLM

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.training.recipe.shapes import model_config

VOCABULARY = 99_574
"""Tokens of llm-jp-tokenizer v3.0."""
FIRST_WORD = 8
"""Ids below are special tokens."""


class Models:
    """Masked language models of one shape; their `.model` is the encoder.

    Args:
        shape: `nano`, `small` or `base`.
        vocabulary: tokens of the tokenizer.
        layers: another number of layers than the shape's; every third is global, the first among them.
        device: where they are; by default a GPU where there is one.
    """

    def __init__(
        self, shape: str, vocabulary: int = VOCABULARY, layers: int | None = None, device: str | None = None
    ) -> None:
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        changes = {} if layers is None else {"num_hidden_layers": layers}
        self.config: Any = model_config({"shape": shape, **changes}, vocabulary)
        self.config.checkpoint_format = "plain"
        self.settings: dict[str, Any] = {"shape": shape, "layers": self.config.num_hidden_layers}
        self._made: dict[tuple[str, torch.dtype], Any] = {}

    def ours(self, dtype: torch.dtype) -> Any:
        """This library's."""
        return self._get("ours", dtype)

    def compiled(self, dtype: torch.dtype) -> Any:
        """This library's, with its layers compiled; its weights are those of `ours`."""
        return self._get("compiled", dtype)

    def peer(self, dtype: torch.dtype) -> Any:
        """Transformers', with its attention by sdpa."""
        return self._get("peer", dtype)

    def _get(self, which: str, dtype: torch.dtype) -> Any:
        if (which, dtype) not in self._made:
            self._made[which, dtype] = self._make(which, dtype)
        return self._made[which, dtype]

    def _make(self, which: str, dtype: torch.dtype) -> Any:
        if which == "ours":
            if dtype != torch.float32:
                return copy.deepcopy(self.ours(torch.float32)).to(dtype)
            torch.manual_seed(0)
            return LlmJpModernBertForMaskedLM(self.config).to(self.device).eval()
        ours = self.ours(dtype)
        if which == "compiled":
            # The same weights: others, and an optimizer for them, would take memory that slows what wants much of it.
            weights = (*ours.parameters(), *ours.buffers())
            compiled = copy.deepcopy(ours, {id(tensor): tensor for tensor in weights})
            compiled.compile_layers()
            return compiled
        plain: Any = ModernBertForMaskedLM.config_class
        config = plain(**self.config.to_dict())
        # Not initialised: it would take transformers longer than everything that is measured.
        with torch.device("meta"):
            peer: Any = ModernBertForMaskedLM._from_config(config, attn_implementation="sdpa")
        peer = peer.to_empty(device=self.device).to(dtype).eval()
        peer.load_state_dict(ours.state_dict())
        peer.tie_weights()
        # Its frequencies are no part of the weights.
        peer.model.rotary_emb = type(peer.model.rotary_emb)(config).to(self.device)
        return peer

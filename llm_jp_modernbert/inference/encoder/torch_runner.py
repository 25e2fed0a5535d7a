"""The backend `torch`: any model on any device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..packed_forward import packed_forward
from .pooling import pool

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class TorchRunner:
    """Computes packed batches with torch; see `Runner`.

    Args:
        model: a model with any head, in evaluation mode.
        modules: modules of an embedder, on the model's device, that compute `sentence_embedding`.
    """

    def __init__(self, model: PreTrainedModel, modules: Sequence[torch.nn.Module] = ()) -> None:
        self.model, self.modules = model, modules

    def run(
        self, input_ids: np.ndarray, cu_seqlens: np.ndarray, positions: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Computes one batch; see `Runner.run`."""
        outputs = packed_forward(self.model, input_ids, cu_seqlens, positions)
        arrays = {name: value.float().cpu().numpy() for name, value in outputs.items()}
        if self.modules:
            arrays["sentence_embedding"] = pool(outputs["last_hidden_state"], cu_seqlens, self.modules)
        return arrays

    def hidden_states(self, input_ids: np.ndarray, cu_seqlens: np.ndarray) -> torch.Tensor:
        """The last hidden states `(total_tokens, hidden)` of one batch, on the model's device."""
        return packed_forward(self.model, input_ids, cu_seqlens)["last_hidden_state"]

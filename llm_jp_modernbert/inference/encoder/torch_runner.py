"""The backend `torch`: any model on any device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..packed_forward import packed_forward

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class TorchRunner:
    """Computes packed batches with torch; see `Runner`.

    Args:
        model: a model with any head, in evaluation mode.
        modules: modules of a sentence-transformers embedder after its encoder.
    """

    def __init__(self, model: PreTrainedModel, modules: Sequence[torch.nn.Module] = ()) -> None:
        self.model = model
        self.modules = modules

    def run(
        self, input_ids: np.ndarray, cu_seqlens: np.ndarray, positions: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Computes one batch; see `Runner.run`."""
        outputs = packed_forward(self.model, input_ids, cu_seqlens, positions)
        if self.modules:
            outputs = {"sentence_embedding": self._embed(outputs["last_hidden_state"], cu_seqlens, self.modules)}
        return {name: value.float().cpu().numpy() for name, value in outputs.items()}

    def pool(self, input_ids: np.ndarray, cu_seqlens: np.ndarray, mode: str) -> np.ndarray:
        """Pools the last hidden states on the model's device, which saves copying them.

        Args:
            input_ids, cu_seqlens: as for `run`.
            mode: `"mean"` or `"cls"`.

        Returns:
            float32 `(documents, hidden)`.
        """
        import torch

        hidden = packed_forward(self.model, input_ids, cu_seqlens)["last_hidden_state"]
        with torch.inference_mode():
            boundaries = torch.from_numpy(cu_seqlens).to(hidden.device)
            if mode == "cls":
                return hidden[boundaries[:-1]].float().cpu().numpy()
            lengths = boundaries.diff()
            documents = torch.arange(len(lengths), device=hidden.device).repeat_interleave(
                lengths, output_size=len(hidden)
            )
            # Sums over thousands of tokens are inaccurate in half precision.
            sums = hidden.new_zeros(len(lengths), hidden.shape[-1], dtype=torch.float32)
            return (sums.index_add(0, documents, hidden.float()) / lengths[:, None]).cpu().numpy()

    @staticmethod
    def _embed(hidden: torch.Tensor, cu_seqlens: np.ndarray, modules: Sequence[torch.nn.Module]) -> torch.Tensor:
        import torch

        features: dict[str, Any] = {
            "token_embeddings": hidden[None],
            # With boundaries, sentence-transformers' modules read a packed row.
            "cu_seq_lens_q": torch.from_numpy(cu_seqlens).to(hidden.device),
        }
        with torch.inference_mode():
            for module in modules:
                features = module(features)
        embedding: torch.Tensor = features["sentence_embedding"]
        return embedding

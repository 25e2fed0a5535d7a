"""The outputs of a model for a packed batch: this package's models read it as it is, others get a padded batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .heads import HEADS
from .loading import OUR_MODEL_TYPES

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_OUTPUTS = ("logits", "start_logits", "end_logits", "last_hidden_state")


def packed_forward(
    model: PreTrainedModel, input_ids: np.ndarray, cu_seqlens: np.ndarray, positions: np.ndarray | None = None
) -> dict[str, torch.Tensor]:
    """Computes the outputs of a model with any head, without gradients.

    Args:
        model: a model in evaluation mode.
        input_ids: int64 `(total_tokens,)`, the documents one after the other, none of them empty.
        cu_seqlens: int64 `(documents + 1,)`, the document boundaries.
        positions: int64 `(selected,)`, the rows for which a masked language model computes logits.

    Returns:
        Outputs by name, on the model's device and in its dtype, `(total_tokens, …)` or `(documents, …)`. A masked
        language model gives `logits` `(selected, vocabulary)` if there are positions, else `last_hidden_state`.
    """
    import torch

    is_masked_lm = model.get_output_embeddings() is not None
    computed: Any = model.base_model if is_masked_lm and positions is None else model
    compute = _packed if model.config.model_type in OUR_MODEL_TYPES else _padded
    with torch.inference_mode():
        return compute(computed, input_ids, cu_seqlens, positions if is_masked_lm else None)


def _packed(
    model: PreTrainedModel, input_ids: np.ndarray, cu_seqlens: np.ndarray, positions: np.ndarray | None
) -> dict[str, torch.Tensor]:
    import torch

    ids = torch.from_numpy(input_ids).to(model.device)[None]
    inputs: dict[str, Any] = {
        # A multiple choice model has an axis of choices.
        "input_ids": ids[None] if _is_multiple_choice(model) else ids,
        "cu_seqlens": torch.from_numpy(cu_seqlens.astype(np.int32)).to(model.device),
        "max_seqlen": int(np.diff(cu_seqlens).max()),
    }
    if positions is not None:
        selected = torch.zeros_like(ids, dtype=torch.bool)
        selected[0, torch.from_numpy(positions).to(model.device)] = True
        inputs["logits_positions"] = selected
    outputs = _known(model(**inputs))
    # Outputs of tokens keep the axis of the one row.
    has_row = positions is None and not _is_pooled(model)
    return {name: value[0] if has_row else value for name, value in outputs.items()}


def _padded(
    model: PreTrainedModel, input_ids: np.ndarray, cu_seqlens: np.ndarray, positions: np.ndarray | None
) -> dict[str, torch.Tensor]:
    import torch

    lengths = np.diff(cu_seqlens)
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, getattr(model.config, "pad_token_id", None) or 0)
    ids[mask] = input_ids
    inputs = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
    tensors = {name: torch.from_numpy(value).to(model.device) for name, value in inputs.items()}
    if _is_multiple_choice(model):
        tensors = {name: tensor[:, None] for name, tensor in tensors.items()}
    cells = np.flatnonzero(mask)
    cells = cells if positions is None else cells[positions]
    rows = torch.from_numpy(cells).to(model.device)
    outputs = _known(model(**tensors))
    return outputs if _is_pooled(model) else {name: value.flatten(0, 1)[rows] for name, value in outputs.items()}


def _known(outputs: Any) -> dict[str, torch.Tensor]:
    return {name: outputs[name] for name in _OUTPUTS if outputs.get(name) is not None}


def _is_pooled(model: PreTrainedModel) -> bool:
    return type(model).__name__.endswith(tuple(head.suffix for head in HEADS if head.pools))


def _is_multiple_choice(model: PreTrainedModel) -> bool:
    return type(model).__name__.endswith("ForMultipleChoice")

"""The packed model with fixed operations, from which graphs for other runtimes are exported.

It computes the same values as the model of `modeling`, whose weights it shares. All decisions that depend on document
lengths are inputs (see `inputs.py`), so it contains only gathers, matrix products, norms and attention.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn
from torch.nn.functional import embedding, normalize, scaled_dot_product_attention

from ..heads import ENCODER, MASKED_LM, QUESTION_ANSWERING, Head

Pooling = Literal["mean", "cls"]


class PackedGraph(nn.Module):
    """A model with any head as a function of the inputs that `graph_inputs` builds.

    Args:
        model: a float32 model of this package in evaluation mode.
        head: its head.
        pooling: for an encoder, also return the mean or first hidden state of each document.
        normalized: whether these vectors are scaled to length 1.
        fused_attention: whether attention is one `scaled_dot_product_attention`, which OpenVINO computes without
            storing the scores of long documents, or its parts, which ONNX Runtime fuses itself.
    """

    def __init__(
        self,
        model: Any,
        head: Head,
        pooling: Pooling | None = None,
        normalized: bool = True,
        fused_attention: bool = True,
    ) -> None:
        super().__init__()
        self.normalized = normalized
        self.model, self.head, self.pooling, self.fused_attention = model, head, pooling, fused_attention
        self.encoder = getattr(model, "model", model)
        config = model.config
        self.heads, self.head_dim = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        # Constants, because runtimes that compute in bfloat16 would round the angles.
        positions = torch.arange(config.max_position_embeddings)
        for kind in sorted({layer.attention_type for layer in self.encoder.layers}):
            for name, table in zip(("cos", "sin"), self.encoder.rotary_emb.tables(positions, kind), strict=True):
                self.register_buffer(f"{name}_{kind}", table.squeeze(1).clone(), persistent=False)

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        local_queries: torch.Tensor,
        local_keys: torch.Tensor,
        local_mask: torch.Tensor,
        local_outputs: torch.Tensor,
        global_tokens: torch.Tensor,
        global_mask: torch.Tensor,
        global_outputs: torch.Tensor,
        documents: torch.Tensor,
        logits_positions: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Compute the outputs that `output_names` lists, from the inputs of `graph_inputs`.

        Args:
            logits_positions: `(selected,)` tokens at which a masked language model predicts.
        """
        rows = {
            "sliding_attention": (local_queries, local_keys, local_mask, local_outputs),
            "full_attention": (global_tokens, global_tokens, global_mask, global_outputs),
        }
        tables = {
            kind: tuple(embedding(positions, getattr(self, f"{name}_{kind}"))[:, None] for name in ("cos", "sin"))
            for kind in {layer.attention_type for layer in self.encoder.layers}
        }
        hidden_states = self.encoder.embeddings(input_ids)
        for layer in self.encoder.layers:
            kind = layer.attention_type
            hidden_states = hidden_states + self._attend(
                layer.attn, layer.attn_norm(hidden_states), rows[kind], tables[kind]
            )
            hidden_states = hidden_states + self._feed_forward(layer.mlp, layer.mlp_norm(hidden_states))
        hidden_states = self.encoder.final_norm(hidden_states)
        return self._outputs(hidden_states, documents, global_tokens, logits_positions)

    def _attend(
        self,
        attention: Any,
        hidden_states: torch.Tensor,
        rows: tuple[torch.Tensor, ...],
        tables: tuple[torch.Tensor, ...],
    ) -> torch.Tensor:
        queries, keys, mask, outputs = rows
        cos, sin = tables
        hidden = self.heads * self.head_dim
        both, value = attention.Wqkv(hidden_states).split([2 * hidden, hidden], -1)
        # Queries and keys are rotated together.
        first, second = both.reshape(-1, 2 * self.heads, self.head_dim).split([self.head_dim // 2] * 2, -1)
        both = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
        query, key = both.reshape(-1, 2 * hidden).split([hidden, hidden], -1)
        query, key, value = (
            embedding(index, tensor).unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)
            for index, tensor in ((queries, query), (keys, key), (keys, value))
        )
        scale = self.head_dim**-0.5
        if self.fused_attention:
            out = scaled_dot_product_attention(query, key, value, mask, scale=scale)
        else:
            out = ((query * scale) @ key.transpose(-1, -2) + mask).softmax(-1) @ value
        return attention.Wo(embedding(outputs, out.transpose(1, 2).reshape(-1, hidden)))

    @staticmethod
    def _feed_forward(mlp: Any, hidden_states: torch.Tensor) -> torch.Tensor:
        value, gate = mlp.Wi(hidden_states).split([mlp.Wo.in_features] * 2, -1)
        return mlp.Wo(mlp.act(value) * gate)

    def _outputs(
        self,
        hidden_states: torch.Tensor,
        documents: torch.Tensor,
        global_tokens: torch.Tensor,
        logits_positions: torch.Tensor | None,
    ) -> tuple[torch.Tensor, ...]:
        model = self.model
        if self.head is ENCODER:
            if self.pooling is None:
                return (hidden_states,)
            vectors = self._pool(hidden_states, documents, global_tokens, self.pooling)
            return (normalize(vectors, dim=-1) if self.normalized else vectors), hidden_states
        if self.head is MASKED_LM:
            selected = embedding(logits_positions, hidden_states)  # type: ignore[arg-type]
            return model.decoder(model.head(selected)), hidden_states
        if self.head.pools:
            hidden_states = self._pool(hidden_states, documents, global_tokens, model.config.classifier_pooling)
        logits = model.classifier(model.head(hidden_states))
        if self.head is QUESTION_ANSWERING:
            return logits[:, 0], logits[:, 1]
        return (logits,)

    @staticmethod
    def _pool(
        hidden_states: torch.Tensor, documents: torch.Tensor, global_tokens: torch.Tensor, pooling: str
    ) -> torch.Tensor:
        """`(total_tokens, hidden)` → `(documents, hidden)`."""
        if pooling == "cls":
            return embedding(global_tokens[:, 0], hidden_states)
        numbers = torch.arange(global_tokens.shape[0], device=documents.device)
        belongs = (numbers[:, None] == documents).to(hidden_states.dtype)
        return belongs @ hidden_states / belongs.sum(1, keepdim=True)


def output_names(head: Head, pooling: Pooling | None = None) -> tuple[str, ...]:
    """Names of the outputs of a graph.

    They are float32: `logits` `(documents, labels)` for classifiers of documents, `(total_tokens, labels)` for those
    of tokens and `(selected, vocabulary)` for masked language models; `start_logits` and `end_logits`
    `(total_tokens,)`; `last_hidden_state` `(total_tokens, hidden)`; `sentence_embedding` `(documents, hidden)`.
    """
    if head is MASKED_LM:
        return (*head.outputs, "last_hidden_state")
    return ("sentence_embedding", *head.outputs) if pooling else head.outputs

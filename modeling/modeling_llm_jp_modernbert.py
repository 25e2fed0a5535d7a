"""The model and its five heads: ModernBERT's parameters, computed over one packed row of documents.

Parameter names and shapes equal those of transformers' ModernBERT, so any `modernbert` checkpoint loads here and any
checkpoint of this model loads there. What differs is the way through: padding is removed once at the door, attention
never leaves a document, and the vocabulary head runs only where it is asked to.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutput,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.models.modernbert.configuration_modernbert import ModernBertConfig
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .attention import choose_backend, get_backend, require_backend
from .configuration_llm_jp_modernbert import LlmJpModernBertConfig
from .custom_code import auto_map, write_code
from .initialization import truncated_normal_
from .layout import PackedLayout, build_layout
from .losses import cross_entropy, linear_cross_entropy
from .pieces import in_pieces
from .plain import is_plain
from .recomputing import keep_products, leave_out_reminder
from .rotary import LlmJpModernBertRotaryEmbedding, rotate
from .tied_gradient import look_up, shares_gradient

logger = logging.get_logger(__name__)

# torch.compile would make the lengths of the documents at hand part of what it compiles.
_build_outside_of_graphs = torch.compiler.disable(build_layout)

# Graphs that torch.compile may make of a function: of kinds of layers, with gradients or not, under autocast or not.
_COMPILED_FORMS = 64

_PUSH_ARGUMENTS = (
    "commit_message",
    "commit_description",
    "private",
    "token",
    "revision",
    "create_pr",
    "max_shard_size",
    "tags",
)


class LlmJpModernBertEmbeddings(nn.Module):
    """Token embeddings and their norm."""

    def __init__(self, config: LlmJpModernBertConfig) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.norm = _norm(config)
        self.drop = nn.Dropout(config.embedding_dropout)

    def forward(
        self, input_ids: torch.Tensor | None = None, inputs_embeds: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`(total_tokens,)` ids or `(total_tokens, hidden)` embeddings → `(total_tokens, hidden)`."""
        if inputs_embeds is None:
            inputs_embeds = self.tok_embeddings(input_ids)
        return self.drop(self.norm(inputs_embeds))


class LlmJpModernBertMLP(nn.Module):
    """GeGLU feed-forward."""

    def __init__(self, config: LlmJpModernBertConfig) -> None:
        super().__init__()
        self.Wi = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=config.mlp_bias)
        self.act = ACT2FN[config.hidden_activation]
        self.drop = nn.Dropout(config.mlp_dropout)
        self.Wo = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(total_tokens, hidden)` in and out."""
        return in_pieces(self._feed, hidden_states, dropout=self.drop.p if self.training else 0.0)[0]

    def _feed(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor]:
        value, gate = self.Wi(hidden_states).chunk(2, dim=-1)
        return (self.Wo(self.drop(self.act(value) * gate)),)


class LlmJpModernBertAttention(nn.Module):
    """Self-attention within the documents of a packed row, global or in a window."""

    def __init__(self, config: LlmJpModernBertConfig, attention_type: str) -> None:
        super().__init__()
        if config.hidden_size % config.num_attention_heads:
            raise ValueError(
                f"hidden_size={config.hidden_size} is not a multiple of "
                f"num_attention_heads={config.num_attention_heads}."
            )
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.attention_type = attention_type
        self.Wqkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.attention_bias)
        self.Wo = nn.Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)
        self.out_drop = nn.Dropout(config.attention_dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        layout: PackedLayout,
        attention_mask: torch.Tensor | None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        backend: str,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(total_tokens, hidden)` in and out; beside it the backend's weights, if it has any."""
        query, key, value = in_pieces(self._project, hidden_states, *position_embeddings)
        if value.requires_grad:
            # As part of the projection they would keep all of it for the backward pass.
            value = value.contiguous()
        dropout = self.config.attention_dropout if self.training else 0.0
        window = _window(self.config, self.attention_type)
        out, weights = get_backend(backend).attend(
            query, key, value, layout, attention_mask, window, self.head_dim**-0.5, dropout
        )
        # Without gradients nothing needs them any more, and the next product is where memory would peak.
        del query, key, value
        return self.out_drop(self.Wo(out.flatten(1))), weights

    def _project(self, hidden_states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value = self.Wqkv(hidden_states).unflatten(-1, (3, -1, self.head_dim)).unbind(-3)
        return *rotate(query, key, cos, sin), value


class LlmJpModernBertEncoderLayer(GradientCheckpointingLayer):
    """Pre-norm attention and feed-forward; the first layer has no attention norm."""

    def __init__(self, config: LlmJpModernBertConfig, attention_type: str, is_first: bool) -> None:
        super().__init__()
        self.attention_type = attention_type
        self.attn_norm = nn.Identity() if is_first else _norm(config)
        self.attn = LlmJpModernBertAttention(config, attention_type)
        self.mlp_norm = _norm(config)
        self.mlp = LlmJpModernBertMLP(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        layout: PackedLayout,
        attention_mask: torch.Tensor | None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        backend: str,
        padded: bool = False,
    ) -> torch.Tensor:
        """`(total_tokens, hidden)` in and out, or the user's `(batch, length, hidden)` where `padded` says so."""
        packed = layout.unpad(hidden_states) if padded else hidden_states
        packed = packed + self.attn(self.attn_norm(packed), layout, attention_mask, position_embeddings, backend)[0]
        packed = packed + keep_products(self._feed_forward, packed)
        return layout.repad(packed) if padded else packed

    def _feed_forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.mlp(self.mlp_norm(hidden_states))


class LlmJpModernBertPredictionHead(nn.Module):
    """The dense layer, activation and norm before every classifier."""

    def __init__(self, config: LlmJpModernBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=config.classifier_bias)
        self.act = ACT2FN[config.classifier_activation]
        self.norm = _norm(config)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(…, hidden)` in and out."""
        return self.norm(self.act(self.dense(hidden_states)))


class LlmJpModernBertPreTrainedModel(PreTrainedModel):
    """Initialisation, saving and loading, common to the model and its heads."""

    config: LlmJpModernBertConfig
    config_class = LlmJpModernBertConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LlmJpModernBertEmbeddings", "LlmJpModernBertEncoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _can_record_outputs = {
        "hidden_states": LlmJpModernBertEncoderLayer,
        "attentions": LlmJpModernBertAttention,
    }

    # Whether `compile_layers` was called.
    _is_compiled = False

    # A function that stands in for `push_to_hub`, called as a method; set from above, since this folder stands alone.
    _hub_push: ClassVar[Callable[..., Any] | None] = None

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__(LlmJpModernBertConfig.of(config))

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        # transformers guesses this from the source text; here the backend is looked up anew in every forward.
        return True

    def _check_and_adjust_attn_implementation(  # type: ignore[override]
        self, attn_implementation: str | None, *args: Any, **kwargs: Any
    ) -> str | None:
        # transformers makes sdpa of None, and knows not all of our backends. What is None here stays so, and the
        # backend is chosen where the batch is.
        if attn_implementation is not None:
            require_backend(attn_implementation)
        return attn_implementation

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        # Of code that is not its own, transformers initialises only modules that own parameters directly: it fears for
        # loaded weights. Ours are safe, and blocks draw the weights of the layers within them.
        super()._initialize_weights(module, is_custom_code=False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        base = self.config.initializer_range
        out = base / math.sqrt(2.0 * self.config.num_hidden_layers)
        stds: list[tuple[nn.Linear | nn.Embedding, float]] = []
        if isinstance(module, LlmJpModernBertEmbeddings):
            stds = [(module.tok_embeddings, base)]
        elif isinstance(module, LlmJpModernBertMLP):
            stds = [(module.Wi, base), (module.Wo, out)]
        elif isinstance(module, LlmJpModernBertAttention):
            stds = [(module.Wqkv, base), (module.Wo, out)]
        elif isinstance(module, LlmJpModernBertPredictionHead):
            stds = [(module.dense, out)]
        elif isinstance(module, LlmJpModernBertForMaskedLM):
            stds = [(module.decoder, out)]
        elif isinstance(module, LlmJpModernBertClassifier):
            stds = [(module.classifier, self.config.hidden_size**-0.5)]
        elif isinstance(module, LlmJpModernBertRotaryEmbedding):
            module.reset_parameters()
        cutoff = 3.0 if self.config.initializer_cutoff_factor is None else self.config.initializer_cutoff_factor
        for layer, std in stds:
            truncated_normal_(layer.weight, std, cutoff)

    def build_layout(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        cu_seqlens: torch.Tensor | None = None,
        max_seqlen: int | None = None,
        **kwargs: Any,
    ) -> PackedLayout:
        """The packed layout of a batch: which cells of the input hold tokens, and where documents begin.

        Args:
            input_ids: `(batch, length)`, or one packed row of documents: `(1, total_tokens)` or `(total_tokens,)`.
            attention_mask: `(batch, length)`, nonzero where a token is; padding on either side, or holes.
            position_ids: RoPE positions of the input's shape; a position 0 begins a document.
            inputs_embeds: `(batch, length, hidden)` in place of `input_ids`.
            cu_seqlens: `(documents + 1,)` int32 boundaries of the documents in a packed row.
            max_seqlen: length of the longest document in tokens; spares a GPU the wait for it.
            kwargs: `cu_seq_lens_q` and `max_length_q`, transformers' names for the last two; others are ignored.

        Raises:
            ValueError: neither or both of ids and embeddings, boundaries that do not span the input, or a document
                longer than `max_position_embeddings` unless `config.allow_longer_input`.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds.")
        if input_ids is not None:
            shape, device = tuple(input_ids.shape), input_ids.device
        else:
            shape, device = tuple(inputs_embeds.shape[:-1]), inputs_embeds.device  # type: ignore[union-attr]
        cu_seqlens = kwargs.get("cu_seq_lens_q") if cu_seqlens is None else cu_seqlens
        max_seqlen = kwargs.get("max_length_q") if max_seqlen is None else max_seqlen
        reads_data = any(given is not None for given in (attention_mask, position_ids, cu_seqlens))
        build = _build_outside_of_graphs if reads_data else build_layout
        layout = build(shape, device, attention_mask, position_ids, cu_seqlens, max_seqlen)
        limit = self.config.max_position_embeddings
        if layout.max_length > limit:
            layout = layout.with_lengths()
        if layout.max_length > limit and not self.config.allow_longer_input:
            raise ValueError(
                f"a document of {layout.max_length} tokens is longer than max_position_embeddings={limit}. "
                "Truncate it, or load the model with allow_longer_input=True to go beyond what it was trained on."
            )
        return layout

    def compile_layers(self, **options: Any) -> None:
        """Has torch.compile fuse what happens between matrix products, in every layer and in the loss, in place.

        The first batches take seconds longer; other lengths of documents compile nothing again. Worth it for training
        and for much text. On a CPU it needs a C++ compiler.

        Args:
            options: of torch.compile for the layers, such as `backend` and `mode`.
        """
        leave_out_reminder()
        dynamo = torch._dynamo.config
        dynamo.recompile_limit = max(dynamo.recompile_limit, _COMPILED_FORMS)
        for module in self.modules():
            if isinstance(module, (LlmJpModernBertEncoderLayer, LlmJpModernBertPredictionHead)):
                module.compile(dynamic=True, **options)
            if isinstance(module, LlmJpModernBertPreTrainedModel):
                module._is_compiled = True

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        *args: Any,
        format: Literal["plain", "native"] | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """As transformers' `save_pretrained`.

        Args:
            save_directory: the folder to write.
            is_main_process: whether to write at all; one of several processes does.
            format: `"plain"` for a `modernbert` checkpoint that transformers loads without this package, `"native"`
                for this package's model type, with the code that `trust_remote_code=True` loads without this package;
                by default what `config.checkpoint_format` says.
            push_to_hub: whether to push the same to the Hub, by `push_to_hub`, as `repo_id` or as the folder's name.

        Raises:
            ValueError: another format.
        """
        with self._checkpoint_format(format) as written:
            if written == "native":
                self.config.auto_map = auto_map()
            super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
            if written == "native" and is_main_process and os.path.isdir(save_directory):
                write_code(save_directory)
        if push_to_hub and is_main_process:
            given = {name: kwargs[name] for name in _PUSH_ARGUMENTS if name in kwargs}
            self.push_to_hub(kwargs.get("repo_id", Path(save_directory).name), format=written, **given)

    def push_to_hub(  # type: ignore[override]
        self, repo_id: str, *, format: Literal["plain", "native"] = "plain", **kwargs: Any
    ) -> Any:
        """As transformers' `push_to_hub`, by default in the format that everyone loads.

        Args:
            repo_id: `ORG/NAME` of the repository.
            format: as for `save_pretrained`.
            **kwargs: those of transformers (`commit_message`, `private`, `token`, `revision`, …).

        Raises:
            ValueError: another format.
        """
        with self._checkpoint_format(format):
            if self._hub_push is not None:
                return self._hub_push(repo_id, format=format, **kwargs)
            return super().push_to_hub(repo_id, **kwargs)  # type: ignore[arg-type]

    @contextmanager
    def _checkpoint_format(self, format: Literal["plain", "native"] | None) -> Iterator[Literal["plain", "native"]]:
        """Lets the configuration be written in a format, by default its own."""
        if format not in (None, "plain", "native"):
            raise ValueError(f"format={format!r} is neither 'plain' nor 'native'.")
        own_format = self.config.checkpoint_format
        self.config.checkpoint_format = format or own_format
        try:
            yield self.config.checkpoint_format
        finally:
            self.config.checkpoint_format = own_format


class LlmJpModernBertModel(LlmJpModernBertPreTrainedModel):
    """The encoder without a head."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__(config)
        config = self.config
        self.embeddings = LlmJpModernBertEmbeddings(config)
        self.layers = nn.ModuleList(
            LlmJpModernBertEncoderLayer(config, kind, is_first=index == 0)
            for index, kind in enumerate((config.layer_types or [])[: config.num_hidden_layers])
        )
        self.final_norm = _norm(config)
        self.rotary_emb = LlmJpModernBertRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embeddings."""
        return self.embeddings.tok_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings."""
        self.embeddings.tok_embeddings = value  # type: ignore[assignment]

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        cu_seqlens: torch.Tensor | None = None,
        max_seqlen: int | None = None,
        layout: PackedLayout | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Encode a batch; inputs as in `build_layout`.

        Args:
            layout: the layout, where the caller has built it already.

        Returns:
            `last_hidden_state` of the input's leading shape, zero at padding; on request `hidden_states` likewise and,
            from the eager backend, `attentions` `(batch, heads, length, length)`.
        """
        if layout is None:
            layout = self.build_layout(
                input_ids, attention_mask, position_ids, inputs_embeds, cu_seqlens, max_seqlen, **kwargs
            )
        if inputs_embeds is not None:
            hidden_states = self.embeddings(inputs_embeds=layout.unpad(inputs_embeds))
        else:
            hidden_states = self.embeddings(layout.unpad(input_ids))  # type: ignore[arg-type]

        dtype = _compute_dtype(hidden_states)
        name = self._backend_for(hidden_states.device, dtype, kwargs)
        backend = get_backend(name)
        if backend.needs_lengths:
            layout = layout.with_lengths()
        kinds = sorted({str(layer.attention_type) for layer in self.layers})
        masks = {kind: backend.mask(layout, _window(self.config, kind), dtype) for kind in kinds}
        tables = {kind: self.rotary_emb.tables(layout.positions, kind) for kind in kinds}

        # Recorded hidden states have the user's shape and lie on the path of the gradient.
        padded = bool(kwargs.get("output_hidden_states", self.config.output_hidden_states))
        if padded:
            hidden_states = layout.repad(hidden_states)
        for layer in self.layers:
            kind = str(layer.attention_type)
            hidden_states = layer(hidden_states, layout, masks[kind], tables[kind], name, padded)
        if padded:
            hidden_states = layout.unpad(hidden_states)
        return BaseModelOutput(last_hidden_state=layout.repad(self.final_norm(hidden_states)))

    def _backend_for(self, device: torch.device, dtype: torch.dtype, kwargs: dict[str, Any]) -> str:
        name = self.config._attn_implementation
        if kwargs.get("output_attentions", self.config.output_attentions):
            if name not in (None, "eager"):
                logger.warning_once(
                    f"attn_implementation={name!r} has no attention weights to return; using 'eager' here."
                )
            return "eager"
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        dropout = self.config.attention_dropout
        if dropout and not any(m.training for m in self.modules() if isinstance(m, LlmJpModernBertAttention)):
            dropout = 0.0
        return choose_backend(name, device, dtype, head_dim, dropout)


class LlmJpModernBertForMaskedLM(LlmJpModernBertPreTrainedModel):
    """The encoder with the vocabulary head, for masked-language modelling."""

    _tied_weights_keys = {"decoder.weight": "model.embeddings.tok_embeddings.weight"}

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__(config)
        config = self.config
        self.model = LlmJpModernBertModel(config)
        self.head = LlmJpModernBertPredictionHead(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=config.decoder_bias)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """The vocabulary matrix."""
        return self.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the vocabulary matrix."""
        self.decoder = new_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        cu_seqlens: torch.Tensor | None = None,
        max_seqlen: int | None = None,
        layout: PackedLayout | None = None,
        logits_positions: torch.Tensor | None = None,
        return_logits: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Predict tokens; inputs as in `build_layout`, and:

        Args:
            labels: token ids of the input's shape, `config.sparse_pred_ignore_index` (-100) where there is none.
            logits_positions: bool of the input's shape: logits only there, `(selected, vocabulary)` in reading order.
            return_logits: by default logits are left out in training with labels, where only the loss is of use.
            num_items_in_batch: divisor of the summed loss, as Trainer passes it; by default the labelled tokens here.

        Returns:
            `loss` (0 where no token is labelled) and `logits` of the input's shape × vocabulary, zero at padding.
        """
        if layout is None:
            layout = self.build_layout(
                input_ids, attention_mask, position_ids, inputs_embeds, cu_seqlens, max_seqlen, **kwargs
            )
        # Of a decoder that has become more than a matrix, the loss takes the logits.
        weight = self.decoder.weight if labels is not None and is_plain(self.decoder, nn.Linear) else None
        embedding = self.get_input_embeddings()
        if weight is not None and input_ids is not None and shares_gradient(embedding, weight):
            inputs_embeds, weight = look_up(embedding, input_ids)
            input_ids = None
        outputs = self.model(input_ids=input_ids, inputs_embeds=inputs_embeds, layout=layout, **kwargs)
        hidden_states = outputs.last_hidden_state

        loss = None
        if labels is not None:
            labelled = labels != self.config.sparse_pred_ignore_index
            loss = self._loss(hidden_states, labels, labelled, weight, num_items_in_batch)
            if self.config.sparse_prediction and logits_positions is None:
                logits_positions = labelled

        if return_logits is None:
            return_logits = labels is None or not self.training
        logits = self._logits(hidden_states, layout, logits_positions) if return_logits else None
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def _loss(
        self,
        hidden_states: torch.Tensor,
        labels: torch.Tensor,
        labelled: torch.Tensor,
        weight: torch.Tensor | None,
        num_items_in_batch: torch.Tensor | int | None,
    ) -> torch.Tensor:
        # Found once: a GPU has to be waited for.
        places = labelled.flatten().nonzero().squeeze(1)
        rows = self.head(hidden_states.flatten(0, -2).index_select(0, places))
        targets = labels.flatten().index_select(0, places)
        if weight is None:
            return cross_entropy(self.decoder(rows), targets, num_items_in_batch)
        return linear_cross_entropy(
            rows, weight, self.decoder.bias, targets, num_items_in_batch, compiled=self._is_compiled
        )

    def _logits(
        self, hidden_states: torch.Tensor, layout: PackedLayout, positions: torch.Tensor | None
    ) -> torch.Tensor:
        if positions is not None:
            return self.decoder(self.head(hidden_states[positions.bool()]))
        return layout.repad(self.decoder(self.head(layout.unpad(hidden_states))))


class LlmJpModernBertClassifier(LlmJpModernBertPreTrainedModel):
    """What the four classifiers share: encoder, head, dropout and a linear layer.

    Their losses are means over the batch at hand, so Trainer has to divide by the accumulation steps itself.
    """

    accepts_loss_kwargs = False

    def __init__(self, config: ModernBertConfig, num_outputs: int | None) -> None:
        super().__init__(config)
        config = self.config
        self.num_labels = config.num_labels
        self.model = LlmJpModernBertModel(config)
        self.head = LlmJpModernBertPredictionHead(config)
        self.drop = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, num_outputs or 0)
        self.post_init()

    def _encode(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        kwargs: dict[str, Any],
    ) -> tuple[Any, PackedLayout]:
        layout = kwargs.pop("layout", None)
        if layout is None:
            layout = self.build_layout(input_ids, attention_mask, position_ids, inputs_embeds, **kwargs)
        return self.model(input_ids=input_ids, inputs_embeds=inputs_embeds, layout=layout, **kwargs), layout

    def _classify(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.drop(self.head(hidden_states)))

    def _pool(self, hidden_states: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """`(*shape, hidden)` → `(documents, hidden)`: the first token of each document, or their mean."""
        packed = layout.unpad(hidden_states)
        lengths = layout.cu_seqlens.diff()[:, None]
        if self.config.classifier_pooling == "cls":
            # An empty document has no first token: it reads a zero row.
            packed = torch.cat([packed, packed.new_zeros(1, packed.shape[-1])])
            first = torch.where(lengths[:, 0] > 0, layout.cu_seqlens[:-1].long(), len(packed) - 1)
            return packed[first]
        # Thousands of tokens do not add up in half precision.
        dtype = torch.promote_types(packed.dtype, torch.float32)
        zeros = packed.new_zeros(len(lengths), packed.shape[-1], dtype=dtype)
        sums = zeros.index_add(0, layout.document_ids, packed.to(dtype))
        return (sums / lengths.clamp(min=1)).to(packed.dtype)


class LlmJpModernBertForSequenceClassification(LlmJpModernBertClassifier):
    """One label, several labels or a score per document (`config.problem_type`)."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__(config, num_outputs=config.num_labels)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Classify documents; inputs as in `build_layout`, and:

        Args:
            labels: `(documents,)` class ids or scores, or `(documents, num_labels)`.

        Returns:
            `logits` `(documents, num_labels)`; a row of a padded batch is one document.
        """
        outputs, layout = self._encode(input_ids, attention_mask, position_ids, inputs_embeds, kwargs)
        logits = self._classify(self._pool(outputs.last_hidden_state, layout))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class LlmJpModernBertForTokenClassification(LlmJpModernBertClassifier):
    """A label per token, as in named-entity recognition."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__(config, num_outputs=config.num_labels)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput:
        """Classify tokens; inputs as in `build_layout`, and:

        Args:
            labels: class ids of the input's shape, -100 where there is none.

        Returns:
            `logits` of the input's shape × `num_labels`.
        """
        outputs, _ = self._encode(input_ids, attention_mask, position_ids, inputs_embeds, kwargs)
        logits = self._classify(outputs.last_hidden_state)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, config=self.config)
        return TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class LlmJpModernBertForQuestionAnswering(LlmJpModernBertClassifier):
    """Start and end of an answer in a context."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__(config, num_outputs=config.num_labels)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        start_positions: torch.Tensor | None = None,
        end_positions: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> QuestionAnsweringModelOutput:
        """Score the answer's borders; inputs as in `build_layout`, and:

        Args:
            start_positions, end_positions: `(batch,)` columns of the answer's first and last token.

        Returns:
            `start_logits`, `end_logits`: `(batch, length)`, the dtype's least value at padding, where no answer can
            be.
        """
        outputs, layout = self._encode(input_ids, attention_mask, position_ids, inputs_embeds, kwargs)
        logits = self._classify(outputs.last_hidden_state)
        if layout.indices is not None:
            tokens = layout.repad(torch.ones_like(layout.document_ids, dtype=torch.bool))
            logits = logits.masked_fill(~tokens[..., None], torch.finfo(logits.dtype).min)
        start_logits, end_logits = (part.squeeze(-1).contiguous() for part in logits.split(1, -1))
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = self.loss_function(start_logits, end_logits, start_positions, end_positions)
        return QuestionAnsweringModelOutput(
            loss=loss,
            start_logits=start_logits,
            end_logits=end_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class LlmJpModernBertForMultipleChoice(LlmJpModernBertClassifier):
    """The best of several choices, each a sequence of its own."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__(config, num_outputs=1)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> MultipleChoiceModelOutput:
        """Score choices; inputs as elsewhere, with an axis more: `(batch, choices, length)`.

        Args:
            input_ids, attention_mask, position_ids: `(batch, choices, length)`.
            inputs_embeds: `(batch, choices, length, hidden)` in place of `input_ids`.
            labels: `(batch,)` index of the right choice.

        Returns:
            `logits` `(batch, choices)`.
        """
        given = input_ids if input_ids is not None else inputs_embeds
        if given is None:
            raise ValueError("pass exactly one of input_ids and inputs_embeds.")
        choices = given.shape[1]
        input_ids, attention_mask, position_ids, inputs_embeds = (
            None if tensor is None else tensor.flatten(0, 1)
            for tensor in (input_ids, attention_mask, position_ids, inputs_embeds)
        )
        outputs, layout = self._encode(input_ids, attention_mask, position_ids, inputs_embeds, kwargs)
        logits = self._classify(self._pool(outputs.last_hidden_state, layout)).view(-1, choices)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return MultipleChoiceModelOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


def _norm(config: LlmJpModernBertConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)


def _window(config: LlmJpModernBertConfig, layer_type: str) -> int | None:
    return config.local_attention // 2 if layer_type == "sliding_attention" else None


def _compute_dtype(hidden_states: torch.Tensor) -> torch.dtype:
    device_type = hidden_states.device.type
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return hidden_states.dtype


__all__ = [
    "LlmJpModernBertForMaskedLM",
    "LlmJpModernBertForMultipleChoice",
    "LlmJpModernBertForQuestionAnswering",
    "LlmJpModernBertForSequenceClassification",
    "LlmJpModernBertForTokenClassification",
    "LlmJpModernBertModel",
    "LlmJpModernBertPreTrainedModel",
]

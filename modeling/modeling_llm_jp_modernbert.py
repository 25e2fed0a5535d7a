"""The encoder and its five heads: ModernBERT's parameters, computed over one packed row of documents.

Parameter names and shapes equal those of transformers' ModernBERT (arXiv 2412.13663), so any `modernbert` checkpoint
loads here and any checkpoint of this model loads there. The computation differs: padding is removed once on entry,
attention never crosses a document boundary, and the vocabulary head runs only at labelled or requested positions.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeGuard, TypeVar

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.loss.loss_utils import fixed_cross_entropy
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutput,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.modeling_rope_utils import dynamic_rope_update
from transformers.modeling_utils import PreTrainedModel
from transformers.models.modernbert.configuration_modernbert import ModernBertConfig
from transformers.models.modernbert.modeling_modernbert import ModernBertRotaryEmbedding
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .attention import AttentionInputs
from .attention_backends import choose_backends, get_backend, require_backend
from .configuration_llm_jp_modernbert import LlmJpModernBertConfig
from .cpu_tuning import map_row_chunks, tied_lookup
from .custom_code import auto_map, write_code
from .layout import PackedLayout, build_layout, is_in_graph, is_program
from .losses import cross_entropy, linear_cross_entropy

logger = logging.get_logger(__name__)
_Kind = TypeVar("_Kind", bound=nn.Module)
# sentence-transformers reads the fields of these annotated classes.
_ClassifierOutput = SequenceClassifierOutput | TokenClassifierOutput | MultipleChoiceModelOutput

# A graph would contain the document lengths as constants.
_build_layout_outside_of_graphs = torch.compiler.disable(
    build_layout, reason="The layout of packed documents depends on their lengths. Use compile_layers()."
)

# Graphs that torch.compile may build per function: layer types, with and without gradients or autocast.
_RECOMPILE_LIMIT = 64

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


class LlmJpModernBertRotaryEmbedding(ModernBertRotaryEmbedding):
    """RoPE (RoFormer, arXiv 2104.09864) of global and local layers, for every RoPE type of transformers."""

    def __init__(self, config: ModernBertConfig, device: Any = None) -> None:
        try:
            super().__init__(config, device)
        except (KeyError, TypeError) as error:
            raise ValueError(f"rope_parameters={config.rope_parameters}: {type(error).__name__}: {error}") from error

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Recompute the frequencies, which no checkpoint contains, after loading created the model without data."""
        fresh = type(self)(self.config)
        for name, frequencies in fresh.named_buffers():
            getattr(self, name).copy_(frequencies, non_blocking=True)

    def tables(self, positions: torch.Tensor, layer_type: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the cosines and sines of one forward pass.

        Args:
            positions: `(total_tokens,)`.
            layer_type: `"full_attention"` or `"sliding_attention"`.

        Returns:
            cos, sin: `(total_tokens, 1, head_dim / 2)` float32.

        Raises:
            ValueError: the frequencies depend on the batch in a way that a program would not repeat.
        """
        if "dynamic" in self.rope_type[layer_type] and is_program():
            raise ValueError(
                "a traced program would keep the frequencies of rope_type='dynamic': choose another RoPE type."
            )
        if self.rope_type[layer_type] != "default" and positions.shape[0] == 0:
            positions = positions.new_zeros(1)  # adaptive RoPE types read the largest position
        like = torch.empty(0, dtype=torch.float32, device=positions.device)
        cos, sin = self(like, positions[None], layer_type)
        return cos[0, :, None], sin[0, :, None]

    @torch.no_grad()
    @dynamic_rope_update  # for RoPE types whose frequencies depend on the batch
    def forward(
        self, x: torch.Tensor, position_ids: torch.Tensor, layer_type: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute cosines and sines without transformers' repetition of each.

        Products are element-wise: older versions of transformers multiply matrices, which rounds positions above 2,048
        where TF32 is allowed.

        Args:
            x: a tensor that gives device and dtype.
            position_ids: `(batch, length)`.
            layer_type: `"full_attention"` or `"sliding_attention"`.

        Returns:
            cos, sin: `(batch, length, head_dim / 2)`.
        """
        frequencies = getattr(self, f"{layer_type}_inv_freq").to(device=x.device, dtype=torch.float32)
        angles = position_ids[..., None].float() * frequencies
        scaling = getattr(self, f"{layer_type}_attention_scaling")
        return (angles.cos() * scaling).to(x.dtype), (angles.sin() * scaling).to(x.dtype)


def rotate(tensor: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate queries or keys by their positions, in float32 and in ModernBERT's rotate-half form.

    Args:
        tensor: `(total_tokens, heads, head_dim)`.
        cos, sin: `(total_tokens, 1, head_dim / 2)`.
    """
    first, second = tensor.float().chunk(2, -1)
    rotated = torch.cat(
        [torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)], -1
    )
    return rotated.to(tensor.dtype)


@torch.no_grad()
def truncated_normal_(tensor: torch.Tensor, std: float, cutoff: float) -> torch.Tensor:
    """Fill `tensor` in place from N(0, std²) restricted to ±cutoff · std, as ModernBERT's initialization does.

    Values outside are redrawn, which gives the same distribution as `torch.nn.init.trunc_normal_` in a tenth of its
    time (20 s for the base model). Weights that transformers marks as loaded from a checkpoint are left unchanged.
    """
    if getattr(tensor, "_is_hf_initialized", False) or tensor.device.type == "meta":
        return tensor
    tensor.normal_(0.0, std)
    outside = (tensor.abs() > cutoff * std).nonzero(as_tuple=True)
    while len(outside[0]):
        tensor[outside] = torch.empty(len(outside[0]), dtype=tensor.dtype, device=tensor.device).normal_(0.0, std)
        still_outside = tensor[outside].abs() > cutoff * std
        outside = tuple(index[still_outside] for index in outside)
    return tensor


class LlmJpModernBertEmbeddings(nn.Module):
    """Token embeddings and their norm."""

    def __init__(self, config: LlmJpModernBertConfig) -> None:
        super().__init__()
        if config.pad_token_id is not None and config.pad_token_id >= config.vocab_size:
            raise ValueError(
                f"pad_token_id={config.pad_token_id} is outside the vocabulary of {config.vocab_size} tokens."
            )
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


class LlmJpModernBertNorm(nn.LayerNorm):
    """LayerNorm that is computed in float32 and returns the dtype of its input, also under autocast on GPUs."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """`(…, hidden)` in and out."""
        if not input.is_cuda or input.dtype == self.weight.dtype:
            return super().forward(input)
        # Autocast would convert the input to float32 and return that; the kernel needs weights of one dtype with it.
        with torch.autocast(input.device.type, enabled=False):
            weight, bias = self.weight.to(input.dtype), None if self.bias is None else self.bias.to(input.dtype)
            return nn.functional.layer_norm(input, self.normalized_shape, weight, bias, self.eps)


class LlmJpModernBertMLP(nn.Module):
    """GeGLU feed-forward (arXiv 2002.05202)."""

    def __init__(self, config: LlmJpModernBertConfig) -> None:
        super().__init__()
        self.Wi = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=config.mlp_bias)
        self.act = _activation(config.hidden_activation)
        self.drop = nn.Dropout(config.mlp_dropout)
        self.Wo = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(total_tokens, hidden)` in and out."""
        return map_row_chunks(self._feed_forward, hidden_states, dropout=self.drop.p if self.training else 0.0)[0]

    def _feed_forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor]:
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
        attention_mask: Any,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        backend: str,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend from every token to the tokens of its document.

        Args:
            hidden_states: `(total_tokens, hidden)`.
            layout: documents of the packed row.
            attention_mask: mask of this layer type, built by the backend.
            position_embeddings: cosines and sines of this layer type.
            backend: name of the attention backend.

        Returns:
            The output `(total_tokens, hidden)` and, from `eager`, the attention weights.
        """
        query, key, value = map_row_chunks(self._project, hidden_states, *position_embeddings)
        if value.requires_grad:
            # As a view, it would keep the whole projection for the backward pass.
            value = value.contiguous()
        window = _window(self.config, self.attention_type)
        dropout = self.config.attention_dropout if self.training else 0.0
        inputs = AttentionInputs(query, key, value, layout, attention_mask, window, self.head_dim**-0.5, dropout)
        out, weights = get_backend(backend).attend(inputs)
        # Free them before the next product, where memory peaks in inference.
        del inputs, query, key, value
        return self.out_drop(self.Wo(out.flatten(1))), weights

    def _project(self, hidden_states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value = self.Wqkv(hidden_states).unflatten(-1, (3, -1, self.head_dim)).unbind(-3)
        return rotate(query, cos, sin), rotate(key, cos, sin), value


class LlmJpModernBertEncoderLayer(GradientCheckpointingLayer):
    """Pre-norm attention and feed-forward; the first layer has no attention norm."""

    def __init__(self, config: LlmJpModernBertConfig, attention_type: str, is_first: bool) -> None:
        super().__init__()
        self.attention_type = attention_type
        self.attn_norm = nn.Identity() if is_first else _norm(config, LlmJpModernBertNorm)
        self.attn = LlmJpModernBertAttention(config, attention_type)
        self.mlp_norm = _norm(config, LlmJpModernBertNorm)
        self.mlp = LlmJpModernBertMLP(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        layout: PackedLayout,
        attention_mask: Any,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        backend: str,
        padded: bool = False,
    ) -> torch.Tensor:
        """`(total_tokens, hidden)` in and out, or `(batch, length, hidden)` if `padded`."""
        packed = layout.unpad(hidden_states) if padded else hidden_states
        packed = packed + self.attn(self.attn_norm(packed), layout, attention_mask, position_embeddings, backend)[0]
        packed = packed + self.mlp(self.mlp_norm(packed))
        return layout.repad(packed) if padded else packed


class LlmJpModernBertPredictionHead(nn.Module):
    """Dense layer, activation and norm before every classifier."""

    def __init__(self, config: LlmJpModernBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=config.classifier_bias)
        self.act = _activation(config.classifier_activation)
        self.norm = _norm(config)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(…, hidden)` in and out."""
        return self.norm(self.act(self.dense(hidden_states)))


class LlmJpModernBertPreTrainedModel(PreTrainedModel):
    """Base class of the encoder and the models with a head: initialization, layout, saving and loading."""

    config: LlmJpModernBertConfig
    config_class = LlmJpModernBertConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    # FSDP2 shards each of them alone by default, but must shard the embeddings with the tied vocabulary layer.
    _no_split_modules = ["LlmJpModernBertEncoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _can_record_outputs = {
        "hidden_states": LlmJpModernBertEncoderLayer,
        "attentions": LlmJpModernBertAttention,
    }

    # Set by `compile_layers`.
    _is_compiled = False

    # Key of transformers' LOSS_MAPPING, which it otherwise guesses from the name of the class.
    _loss_type: ClassVar[str | None] = None
    _pools = False

    # Replaces transformers' `push_to_hub`; set by the package, because this folder imports nothing else of it.
    _hub_push: ClassVar[Callable[..., Any] | None] = None

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__(LlmJpModernBertConfig.of(config))
        if self._loss_type is not None:
            self.loss_type = self._loss_type

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        # transformers infers this from the source text; here every forward pass looks the backend up.
        return True

    def _check_and_adjust_attn_implementation(  # type: ignore[override]
        self, attn_implementation: str | dict[str, str] | None, *args: Any, **kwargs: Any
    ) -> str | dict[str, str] | None:
        # transformers would replace None by sdpa and does not know all backends. None means: choose per batch.
        if attn_implementation is not None:
            require_backend(attn_implementation)
        return attn_implementation

    def set_attn_implementation(self, attn_implementation: str | dict[str, str], *args: Any, **kwargs: Any) -> None:
        """Choose the attention backend, or one per layer type.

        Args:
            attn_implementation: name of a backend, or a mapping from `"full_attention"` and `"sliding_attention"` to
                names; the backend of a missing type is chosen per batch.
            args, kwargs: further arguments of transformers' method.

        Raises:
            ValueError: unknown backend or layer type.
            ImportError: a required package is not installed.
        """
        if isinstance(attn_implementation, dict) and "" not in attn_implementation:
            self.config._attn_implementation = self._check_and_adjust_attn_implementation(attn_implementation)
        else:
            super().set_attn_implementation(attn_implementation, *args, **kwargs)

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        # For custom code, transformers skips modules without parameters of their own, but `_init_weights` initializes
        # the layers of such blocks. Loaded weights are safe: they are marked.
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
        """Build the packed layout of a batch: the cells that hold tokens and the document boundaries.

        Args:
            input_ids: int64 `(batch, length)`, or a packed row of documents: `(1, total_tokens)` or `(total_tokens,)`.
            attention_mask: `(batch, length)`, nonzero at tokens; padding on either side, or zeros between tokens.
            position_ids: RoPE positions with the input's shape; a position that is not greater than the previous one
                starts a document.
            inputs_embeds: `(batch, length, hidden)` instead of `input_ids`.
            cu_seqlens: `(documents + 1,)` int32 document boundaries in a packed row.
            max_seqlen: length of the longest document in tokens; saves a GPU synchronization.
            kwargs: `cu_seq_lens_q` and `max_length_q`, transformers' names for the last two, and `seq_idx`, document
                numbers with the input's shape; others are ignored.

        Raises:
            ValueError: not exactly one of ids and embeddings is given, the boundaries do not span the input, or a
                document is longer than `max_position_embeddings` and `config.allow_longer_input` is False (not checked
                in programs of torch.export and torch.jit.trace).
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds.")
        if input_ids is not None:
            shape, device = tuple(input_ids.shape), input_ids.device
        else:
            shape, device = tuple(inputs_embeds.shape[:-1]), inputs_embeds.device  # type: ignore[union-attr]
        cu_seqlens = kwargs.get("cu_seq_lens_q") if cu_seqlens is None else cu_seqlens
        max_seqlen = kwargs.get("max_length_q") if max_seqlen is None else max_seqlen
        seq_idx = kwargs.get("seq_idx")
        restarts = position_ids is not None or seq_idx is not None
        if self._pools and restarts and cu_seqlens is None and is_program():
            raise ValueError("a traced program cannot count documents by position_ids or seq_idx: pass cu_seqlens.")
        limit, is_limited = self.config.max_position_embeddings, not self.config.allow_longer_input
        dense = is_program() or (
            is_in_graph() and cu_seqlens is None and not restarts and not (is_limited and shape[-1] > limit)
        )
        reads_data = restarts or attention_mask is not None or cu_seqlens is not None
        build = _build_layout_outside_of_graphs if reads_data and not dense else build_layout
        layout = build(shape, device, attention_mask, position_ids, cu_seqlens, max_seqlen, seq_idx, dense)
        if is_program():
            return layout
        if layout.max_length > limit:
            layout = layout.with_lengths()
        if layout.max_length > limit and is_limited:
            raise ValueError(
                f"a document of {layout.max_length} tokens is longer than max_position_embeddings={limit}. "
                "Truncate it, or load the model with allow_longer_input=True to exceed the context length."
            )
        return layout

    def compile_layers(self, **options: Any) -> None:
        """Compile every layer and the loss with torch.compile, in place.

        Elementwise operations between matrix products are fused. The first batches take seconds longer; batches with
        other document lengths are not compiled again. Useful for training and for large amounts of text. On a CPU it
        needs a C++ compiler.

        Args:
            options: arguments of torch.compile for the layers, such as `backend` and `mode`.
        """
        dynamo = torch._dynamo.config
        dynamo.recompile_limit = max(dynamo.recompile_limit, _RECOMPILE_LIMIT)
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
        """Save the model like transformers' `save_pretrained`, in one of two formats.

        Args:
            save_directory: directory to write.
            is_main_process: whether this process writes; exactly one process should.
            format: `"plain"` for a `modernbert` checkpoint that transformers loads without this package, `"native"`
                for this package's model type, with the code that `trust_remote_code=True` loads; None for
                `config.checkpoint_format`.
            push_to_hub: whether to also call `push_to_hub`, with `repo_id` or the directory's name.

        Raises:
            ValueError: unknown format.

        Example:
            >>> model.save_pretrained("my-model", format="plain")
        """
        with self._checkpoint_format(format) as written:
            if written == "native":
                self.config.auto_map = auto_map()
            super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
            if written == "native" and is_main_process and os.path.isdir(save_directory):
                write_code(save_directory)
        if push_to_hub and is_main_process:
            push_arguments = {name: kwargs[name] for name in _PUSH_ARGUMENTS if name in kwargs}
            self.push_to_hub(kwargs.get("repo_id", Path(save_directory).name), format=written, **push_arguments)

    def push_to_hub(  # type: ignore[override]
        self, repo_id: str, *, format: Literal["plain", "native"] = "plain", **kwargs: Any
    ) -> Any:
        """Upload the model like transformers' `push_to_hub`, by default in the format that loads everywhere.

        Args:
            repo_id: repository `ORG/NAME`.
            format: see `save_pretrained`.
            **kwargs: arguments of transformers' method (`commit_message`, `private`, `token`, `revision`, …).

        Raises:
            ValueError: unknown format.
        """
        with self._checkpoint_format(format):
            if self._hub_push is not None:
                return self._hub_push(repo_id, format=format, **kwargs)
            return super().push_to_hub(repo_id, **kwargs)  # type: ignore[arg-type]

    @contextmanager
    def _checkpoint_format(self, format: Literal["plain", "native"] | None) -> Iterator[Literal["plain", "native"]]:
        """Set `config.checkpoint_format` temporarily; None keeps the current one."""
        if format not in (None, "plain", "native"):
            raise ValueError(f"format={format!r} is neither 'plain' nor 'native'.")
        previous = self.config.checkpoint_format
        self.config.checkpoint_format = format or previous
        try:
            yield self.config.checkpoint_format
        finally:
            self.config.checkpoint_format = previous


class LlmJpModernBertModel(LlmJpModernBertPreTrainedModel):
    """The encoder without a head.

    Layers, and hooks on them, see one packed row `(total_tokens, hidden)` without padding. Hooks on the token
    embeddings, such as NEFTune's, and `output_hidden_states=True` get `(batch, length, hidden)` like the input. In a
    graph of torch.compile, torch.export or torch.jit.trace, padding stays in the row; `compile_layers` removes it.

    Example:
        >>> model = LlmJpModernBertModel.from_pretrained("llm-jp/llm-jp-modernbert-base")
        >>> model(**tokenizer(["東京", "大阪の天気"], padding=True, return_tensors="pt")).last_hidden_state.shape
        torch.Size([2, 5, 768])
    """

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__(config)
        config = self.config
        self.embeddings = LlmJpModernBertEmbeddings(config)
        self.layers = nn.ModuleList(
            LlmJpModernBertEncoderLayer(config, layer_type, is_first=index == 0)
            for index, layer_type in enumerate(_layer_types(config))
        )
        self.final_norm = _norm(config, LlmJpModernBertNorm)
        self.rotary_emb = LlmJpModernBertRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the token embeddings."""
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
        """Encode a batch. The inputs are those of `build_layout`, which also lists the errors.

        Args:
            layout: the layout of the batch, if the caller has built it already.

        Returns:
            `last_hidden_state` with the input's leading shape, zero at padding. On request also `hidden_states` of the
            same shape and, from the eager backend, `attentions` `(batch, heads, length, length)`.
        """
        if layout is None:
            layout = self.build_layout(
                input_ids, attention_mask, position_ids, inputs_embeds, cu_seqlens, max_seqlen, **kwargs
            )
        if inputs_embeds is not None:
            hidden_states = self.embeddings(inputs_embeds=layout.unpad(inputs_embeds))
        elif _is_unmodified(self.embeddings.tok_embeddings, nn.Embedding):
            hidden_states = self.embeddings(layout.unpad(input_ids))  # type: ignore[arg-type]
        else:
            hidden_states = self.embeddings(inputs_embeds=self._look_up(input_ids, layout))  # type: ignore[arg-type]

        device, dtype = hidden_states.device, hidden_states.dtype
        if torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
            if self.config.autocast_residual:
                hidden_states = hidden_states.to(dtype)
        backends = self._choose_backends(device, dtype, kwargs)
        if any(get_backend(name).needs_lengths for name in backends.values()):
            layout = layout.with_lengths()
        masks = {
            kind: get_backend(name).build_mask(layout, _window(self.config, kind), dtype)
            for kind, name in backends.items()
        }
        tables = {kind: self.rotary_emb.tables(layout.positions, kind) for kind in backends}

        # Recorded hidden states have the user's shape and receive gradients, so layers must return them that way.
        padded = bool(kwargs.get("output_hidden_states", self.config.output_hidden_states))
        if padded:
            hidden_states = layout.repad(hidden_states)
        for layer in self.layers:
            kind = str(layer.attention_type)
            hidden_states = layer(hidden_states, layout, masks[kind], tables[kind], backends[kind], padded)
        if padded:
            hidden_states = layout.unpad(hidden_states)
        return BaseModelOutput(last_hidden_state=layout.repad(self.final_norm(hidden_states)))

    def _look_up(self, input_ids: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """Look up `(total_tokens, hidden)` with embeddings whose hooks or adapters expect `(batch, length)` ids.

        NEFTune (arXiv 2310.05914) scales its noise by the length of a row, so each document of a packed row is looked
        up by itself.
        """
        embedding = self.embeddings.tok_embeddings
        is_packed = len(layout.cu_seqlens) - 1 > layout.grid[0]
        if is_packed and embedding.training and hasattr(embedding, "neftune_noise_alpha"):
            documents = layout.unpad(input_ids).split(layout.with_lengths().lengths)
            return torch.cat([embedding(document[None]) for document in documents], 1)[0]
        return layout.unpad(embedding(input_ids.reshape(layout.grid)).view(*layout.shape, -1))

    def _choose_backends(self, device: torch.device, dtype: torch.dtype, kwargs: dict[str, Any]) -> dict[str, str]:
        """Choose the attention backend of each layer type."""
        layer_types = sorted({str(layer.attention_type) for layer in self.layers})
        implementation = self.config._attn_implementation
        if kwargs.get("output_attentions", self.config.output_attentions):
            if implementation not in (None, "eager"):
                logger.warning_once(
                    f"attn_implementation={implementation!r} returns no attention weights. Using 'eager'."
                )
            return dict.fromkeys(layer_types, "eager")
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        dropout = self.config.attention_dropout
        if dropout and not any(m.training for m in self.modules() if isinstance(m, LlmJpModernBertAttention)):
            dropout = 0.0
        return choose_backends(implementation, layer_types, device, dtype, head_dim, dropout)


class LlmJpModernBertWithHead(LlmJpModernBertPreTrainedModel):
    """Base class of the models with a head: encoder and prediction head."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__(config)
        self.model = LlmJpModernBertModel(self.config)
        self.head = LlmJpModernBertPredictionHead(self.config)

    def _encode(
        self, layout: PackedLayout | None = None, **inputs: Any
    ) -> tuple[torch.Tensor, PackedLayout, dict[str, Any]]:
        """Build the layout unless it is given, and encode the batch.

        Returns:
            Hidden states `(*input shape, hidden)`, the layout, and the recorded outputs by name.
        """
        if layout is None:
            layout = self.build_layout(**inputs)
        outputs = self.model(layout=layout, **inputs)
        recorded = {"hidden_states": outputs.hidden_states, "attentions": outputs.attentions}
        return outputs.last_hidden_state, layout, recorded


class LlmJpModernBertForMaskedLM(LlmJpModernBertWithHead):
    """The encoder with the vocabulary head, for masked-language modelling.

    Example:
        >>> model = LlmJpModernBertForMaskedLM.from_pretrained("llm-jp/llm-jp-modernbert-base")
        >>> inputs = tokenizer("日本の首都は<MASK|LLM-jp>です。", return_tensors="pt")
        >>> masked = inputs["input_ids"] == tokenizer.mask_token_id
        >>> tokenizer.decode(model(**inputs, logits_positions=masked).logits.argmax(-1))
    """

    _tied_weights_keys = {"decoder.weight": "model.embeddings.tok_embeddings.weight"}
    _loss_type = "ForMaskedLM"

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__(config)
        config = self.config
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=config.decoder_bias)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """Return the vocabulary layer."""
        return self.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the vocabulary layer."""
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
        label_positions: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Predict tokens. The inputs are those of `build_layout`, which also lists the errors, and:

        Args:
            labels: int64 token ids with the input's shape; `config.sparse_pred_ignore_index` (-100) is ignored.
            logits_positions: bool with the input's shape; computes logits `(selected, vocabulary)` only there.
            return_logits: whether to compute logits; by default not in training with labels, where only the loss is
                used.
            num_items_in_batch: divisor of the summed loss, as passed by Trainer; the number of labelled tokens in this
                batch if None.
            label_positions: int64 `(labelled_tokens,)`, the positions of all labelled tokens in the flattened input,
                if known; saves a GPU synchronization.

        Returns:
            `loss` (0 without labelled tokens) and `logits` `(*input shape, vocabulary)`, zero at padding.

        Raises:
            ValueError: `label_positions` are not the positions of the labelled tokens (on a GPU, a device-side
                assertion).
        """
        # The loss needs logits if the decoder is more than a matrix, for example with an adapter.
        weight = self.decoder.weight if labels is not None and _is_unmodified(self.decoder, nn.Linear) else None
        embedding = self.get_input_embeddings()
        if weight is not None and inputs_embeds is None and _is_unmodified(embedding, nn.Embedding):
            input_ids, inputs_embeds, weight = tied_lookup(embedding, input_ids, weight)
        hidden_states, layout, recorded = self._encode(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            cu_seqlens=cu_seqlens,
            max_seqlen=max_seqlen,
            layout=layout,
            **kwargs,
        )

        selected = None if logits_positions is None else logits_positions.bool()
        loss = None
        if labels is not None:
            labelled = labels != self.config.sparse_pred_ignore_index
            # A program's shapes must not depend on the labels.
            indices = None if is_program() else _labelled_rows(labelled, label_positions)
            loss = self._loss(hidden_states, labels, labelled, indices, weight, num_items_in_batch)
            if self.config.sparse_prediction and selected is None:
                selected = labelled if indices is None else indices

        if return_logits is None:
            return_logits = labels is None or not self.training
        logits = self._logits(hidden_states, layout, selected) if return_logits else None
        return MaskedLMOutput(loss=loss, logits=logits, **recorded)

    def _loss(
        self,
        hidden_states: torch.Tensor,
        labels: torch.Tensor,
        labelled: torch.Tensor,
        indices: torch.Tensor | None,
        weight: torch.Tensor | None,
        num_items_in_batch: torch.Tensor | int | None,
    ) -> torch.Tensor:
        if indices is None:
            # All rows are computed, and the others count for nothing.
            logits = self.decoder(self.head(hidden_states.flatten(0, -2)))
            items = labelled.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
            return cross_entropy(logits, labels.masked_fill(~labelled, -100).flatten(), items)
        rows = self.head(hidden_states.flatten(0, -2).index_select(0, indices))
        targets = labels.flatten().index_select(0, indices)
        if weight is None:
            return cross_entropy(self.decoder(rows), targets, num_items_in_batch)
        return linear_cross_entropy(
            rows, weight, self.decoder.bias, targets, num_items_in_batch, compiled=self._is_compiled
        )

    def _logits(
        self, hidden_states: torch.Tensor, layout: PackedLayout, selected: torch.Tensor | None
    ) -> torch.Tensor:
        if selected is not None:
            is_mask = selected.dtype == torch.bool
            return self.decoder(self.head((hidden_states if is_mask else hidden_states.flatten(0, -2))[selected]))
        return layout.repad(self.decoder(self.head(layout.unpad(hidden_states))))


class LlmJpModernBertClassifier(LlmJpModernBertWithHead):
    """Base class of the classifiers: encoder, prediction head, dropout and a linear layer."""

    _pools = True
    _output_class: ClassVar[type[_ClassifierOutput]] = SequenceClassifierOutput

    def __init__(self, config: ModernBertConfig, num_outputs: int | None = None) -> None:
        super().__init__(config)
        config = self.config
        self.num_labels = config.num_labels
        self.drop = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, num_outputs or config.num_labels or 0)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> _ClassifierOutput:
        """Classify a batch. The inputs are those of `build_layout`, which also lists the errors, and:

        Args:
            labels: see the class, as for the shape of the logits.
            num_items_in_batch: divisor of the summed loss, as passed by Trainer; the number of labels in this batch if
                None.

        Returns:
            `loss` if there are labels, `logits`, and `hidden_states` and `attentions` on request.
        """
        logits, _, recorded = self._classify(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        loss = None
        if labels is not None:
            # Not passed if None, which a user's `loss_function` need not accept.
            items = {} if num_items_in_batch is None else {"num_items_in_batch": num_items_in_batch}
            loss = self._loss(logits, labels, **items)
        return self._output_class(loss=loss, logits=logits, **recorded)

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor, **items: Any) -> torch.Tensor:
        raise NotImplementedError

    def _classify(self, **inputs: Any) -> tuple[torch.Tensor, PackedLayout, dict[str, Any]]:
        """Encode a batch and classify its documents, or its tokens if the class does not pool.

        Returns:
            Logits `(documents, outputs)` or `(*input shape, outputs)`, the layout, and the recorded outputs by name.
        """
        hidden_states, layout, recorded = self._encode(**inputs)
        if self._pools:
            hidden_states = self._pool(hidden_states, layout)
        return self.classifier(self.drop(self.head(hidden_states))), layout, recorded

    def _pool(self, hidden_states: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """`(*shape, hidden)` → `(documents, hidden)`: the first token of each document, or the mean of its tokens."""
        packed = layout.unpad(hidden_states)
        # Padding of a dense layout: document −1, hidden states of zero.
        is_token, documents = layout.document_ids >= 0, layout.document_ids.clamp(min=0)
        zeros = torch.zeros_like(layout.cu_seqlens[:-1], dtype=torch.long)
        if self.config.classifier_pooling == "cls":
            # An empty document has no first token: it reads an additional row of zeros.
            end = layout.cu_seqlens[-1].long()
            cells = torch.arange(packed.shape[0], device=packed.device).where(is_token, end)
            return nn.functional.pad(packed, (0, 0, 0, 1))[(zeros + end).scatter_reduce(0, documents, cells, "amin")]
        # Sums over thousands of tokens are inaccurate in half precision.
        dtype = torch.promote_types(packed.dtype, torch.float32)
        sums = packed.new_zeros(zeros.shape[0], packed.shape[-1], dtype=dtype)
        sums = sums.index_add(0, documents, packed.to(dtype))
        lengths = zeros.index_add(0, documents, is_token.long())
        return (sums / lengths.clamp(min=1)[:, None]).to(packed.dtype)


class LlmJpModernBertForSequenceClassification(LlmJpModernBertClassifier):
    """The encoder with a classifier of documents: one label, several labels or a score (`config.problem_type`).

    `labels` are int64 class ids or float scores `(documents,)`, or float `(documents, num_labels)`; `logits` are
    `(documents, num_labels)`. A row of a padded batch is one document.

    Example:
        >>> model = LlmJpModernBertForSequenceClassification.from_pretrained(
        ...     "llm-jp/llm-jp-modernbert-base", num_labels=3
        ... )
        >>> model(**tokenizer(["晴れ", "雨"], padding=True, return_tensors="pt"), labels=torch.tensor([0, 2])).loss
    """

    _loss_type = "ForSequenceClassification"

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor, **items: Any) -> torch.Tensor:
        loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config, **items)
        if items and self.config.problem_type in ("regression", "multi_label_classification"):
            # transformers' losses of scores and of several labels are always means over this batch.
            loss = loss * (labels.numel() / items["num_items_in_batch"])
        return loss


class LlmJpModernBertForTokenClassification(LlmJpModernBertClassifier):
    """The encoder with a classifier of tokens, as in named-entity recognition.

    `labels` are int64 class ids with the input's shape, where -100 is ignored; `logits` are `(*input shape,
    num_labels)`.
    """

    _loss_type = "ForTokenClassification"
    _pools = False
    _output_class = TokenClassifierOutput

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor, **items: Any) -> torch.Tensor:
        return self.loss_function(logits=logits, labels=labels, config=self.config, **items)


class LlmJpModernBertForMultipleChoice(LlmJpModernBertClassifier):
    """The encoder with a score for each of several choices.

    The inputs have an axis of choices: `(batch, choices, length)`, and `inputs_embeds` `(batch, choices, length,
    hidden)`. `labels` are the int64 indices `(batch,)` of the correct choices; `logits` are `(batch, choices)`.
    """

    # Not in transformers' mapping: the loss is below.
    _loss_type = "ForMultipleChoice"
    _output_class = MultipleChoiceModelOutput

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__(config, num_outputs=1)

    def _classify(self, **inputs: Any) -> tuple[torch.Tensor, PackedLayout, dict[str, Any]]:
        flat, choices = dict(inputs), 1
        for name in ("input_ids", "attention_mask", "position_ids", "inputs_embeds"):
            if inputs[name] is not None:
                flat[name], choices = inputs[name].flatten(0, 1), inputs[name].shape[1]
        logits, layout, recorded = super()._classify(**flat)
        return logits.view(-1, choices), layout, recorded

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor, **items: Any) -> torch.Tensor:
        return fixed_cross_entropy(logits, labels, **items)


class LlmJpModernBertForQuestionAnswering(LlmJpModernBertClassifier):
    """The encoder with a classifier of the first and the last token of an answer."""

    _loss_type = "ForQuestionAnswering"
    _pools = False

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        start_positions: torch.Tensor | None = None,
        end_positions: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> QuestionAnsweringModelOutput:
        """Score the ends of answers. The inputs are those of `build_layout`, which also lists the errors, and:

        Args:
            start_positions, end_positions: `(batch,)` int64 columns of the answer's first and last token.
            num_items_in_batch: divisor of the summed loss; the number of answers within this batch's rows if None.

        Returns:
            `loss` if both positions are given, `start_logits` and `end_logits` `(batch, length)`, which at padding are
            the smallest value of their dtype, and `hidden_states` and `attentions` on request.
        """
        logits, layout, recorded = self._classify(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        if layout.indices is not None or layout.dense:
            tokens = layout.repad(torch.ones_like(layout.document_ids, dtype=torch.bool))
            logits = logits.masked_fill(~tokens[..., None], torch.finfo(logits.dtype).min)
        start_logits, end_logits = (part.squeeze(-1).contiguous() for part in logits.split(1, -1))
        loss = None
        if start_positions is not None and end_positions is not None:
            items = {} if num_items_in_batch is None else {"num_items_in_batch": num_items_in_batch}
            loss = self.loss_function(start_logits, end_logits, start_positions, end_positions, **items)
        return QuestionAnsweringModelOutput(loss=loss, start_logits=start_logits, end_logits=end_logits, **recorded)


# A graph would need the number of labelled rows.
@torch.compiler.disable(reason="The masked-LM loss depends on the number of labels. Use compile_layers().")
def _labelled_rows(labelled: torch.Tensor, positions: torch.Tensor | None) -> torch.Tensor:
    """Return the int64 indices of the labelled tokens, in the flattened input, after a check if they are given."""
    labelled = labelled.flatten()
    if positions is None:
        # Waits for the GPU.
        return labelled.nonzero().squeeze(1)
    error = "label_positions must be int64 (labelled_tokens,), the positions of all labelled tokens"
    if positions.dim() != 1 or positions.dtype != torch.int64:
        raise ValueError(f"{error}; got {tuple(positions.shape)} of {str(positions.dtype).removeprefix('torch.')}.")
    is_on_host = positions.device.type == "cpu"
    if is_on_host and len(positions) and not 0 <= int(positions.min()) <= int(positions.max()) < len(labelled):
        raise ValueError(f"{error}; got {int(positions.min())} to {int(positions.max())} in {len(labelled)} tokens.")
    positions = positions.to(labelled.device, non_blocking=True)
    marked = torch.zeros_like(labelled).index_fill(0, positions, True)
    is_complete = (marked == labelled).all() & (labelled.sum() == len(positions))
    if labelled.is_cuda:
        torch._assert_async(is_complete, f"{error}.")
    elif not bool(is_complete):
        raise ValueError(f"{error}; got {len(positions)} that differ from the {int(labelled.sum())} labelled tokens.")
    return positions


def _norm(config: LlmJpModernBertConfig, kind: type[nn.LayerNorm] = nn.LayerNorm) -> nn.LayerNorm:
    return kind(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)


def _activation(name: str) -> nn.Module:
    if name not in ACT2FN:
        raise ValueError(f"transformers has no activation {name!r}; choose one of {', '.join(sorted(ACT2FN))}.")
    return ACT2FN[name]


def _layer_types(config: LlmJpModernBertConfig) -> list[str]:
    """Return the type of each layer, and drop those of layers that a smaller `num_hidden_layers` removed.

    Raises:
        ValueError: there are more layers than types.
    """
    layer_types, count = config.layer_types or [], config.num_hidden_layers
    if len(layer_types) < count:
        raise ValueError(
            f"num_hidden_layers={count}, but layer_types names {len(layer_types)} layers. "
            "To add layers with new weights, set layer_types or global_attn_every_n_layers too."
        )
    if len(layer_types) > count:
        # Otherwise the configuration could not be saved.
        config.layer_types = layer_types[:count]
    return layer_types[:count]


def _window(config: LlmJpModernBertConfig, layer_type: str) -> int | None:
    return config.local_attention // 2 if layer_type == "sliding_attention" else None


def _is_unmodified(module: nn.Module, kind: type[_Kind]) -> TypeGuard[_Kind]:
    """Whether calling `module` computes exactly what its class does, so that its parameters can be used directly.

    Adapters and quantization replace the class; sharding and offloading add hooks or replace `forward`.
    """
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return type(module) is kind and not any(hooks) and "forward" not in vars(module)


__all__ = [
    "LlmJpModernBertForMaskedLM",
    "LlmJpModernBertForMultipleChoice",
    "LlmJpModernBertForQuestionAnswering",
    "LlmJpModernBertForSequenceClassification",
    "LlmJpModernBertForTokenClassification",
    "LlmJpModernBertModel",
    "LlmJpModernBertPreTrainedModel",
]

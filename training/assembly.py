"""Builds the parts of a run from its recipe: tokenizer, model, masking, batches and held-out text."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from huggingface_hub.errors import StrictDataclassError

from llm_jp_modernbert.core.errors import UsageError, first_line
from llm_jp_modernbert.core.references import ModelReference
from llm_jp_modernbert.inference.loading import load_tokenizer, loading_errors
from llm_jp_modernbert.tokenization import check_fits, match_length

from .data.block_index import BlockIndex
from .data.blocks import BlockMaker, BlockSettings
from .data.masking import Masking
from .data.sources import check_tokenized_with, excluded_texts, read_held_out, sources_of
from .data.stream import BatchStream
from .data.validation import MaskedValidation
from .recipe.arguments import PretrainingArguments
from .recipe.shapes import change_config, model_config
from .run.checkpoints import unreadable_weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llm_jp_modernbert.modeling.configuration_llm_jp_modernbert import LlmJpModernBertConfig
    from llm_jp_modernbert.modeling.modeling_llm_jp_modernbert import LlmJpModernBertForMaskedLM

logger = logging.getLogger(__name__)


def make_tokenizer(recipe: PretrainingArguments) -> PreTrainedTokenizerBase:
    """The recipe's tokenizer; by default, that of the model that training starts from.

    Raises:
        UsageError: it cannot be loaded, or lacks a special token that masked-LM training needs.
    """
    tokenizer = load_tokenizer(recipe.tokenizer or str(recipe.init_from))
    missing = [name for name in ("cls", "sep", "mask", "pad") if getattr(tokenizer, f"{name}_token_id") is None]
    if missing:
        raise UsageError(
            f"tokenizer: {tokenizer.name_or_path} has no {', '.join(missing)} token. Name the tokenizer of an encoder."
        )
    return tokenizer


def make_model(
    recipe: PretrainingArguments, tokenizer: PreTrainedTokenizerBase, checkpoint: Path | None = None
) -> LlmJpModernBertForMaskedLM:
    """The model to train: from a checkpoint, from `init_from`, or with random weights.

    Raises:
        UsageError: it is missing, cannot be loaded, or does not match the recipe or the tokenizer.
    """
    import torch

    from llm_jp_modernbert.modeling.configuration_llm_jp_modernbert import LlmJpModernBertConfig
    from llm_jp_modernbert.modeling.modeling_llm_jp_modernbert import LlmJpModernBertForMaskedLM

    source = None
    if checkpoint is not None:
        source = ModelReference(str(checkpoint))
    elif recipe.init_from:
        source = ModelReference.parse(recipe.init_from)
        source.check_model()
    place = "init_from" if checkpoint is None else "resume_from_checkpoint"
    try:
        if source is None:
            ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("pad", "cls", "sep")}
            config = model_config(recipe.model, len(tokenizer), **ids)
        else:
            config = LlmJpModernBertConfig.from_pretrained(source.name, revision=source.revision)
            if checkpoint is None and isinstance(recipe.model, dict):
                _change_kept(config, recipe, source)
        check_fits(tokenizer, config)
        if recipe.sequence_length > config.max_position_embeddings:
            raise UsageError(
                f"sequence_length: {recipe.sequence_length} tokens, but the model reads at most "
                f"{config.max_position_embeddings} (max_position_embeddings). Shorten it, or set "
                f"model.max_position_embeddings={recipe.sequence_length}."
            )
        match_length(tokenizer, config)
        # Checkpoints load with transformers alone.
        config.checkpoint_format = "plain"
        if isinstance(recipe.model, dict):
            # Not in the configuration of a checkpoint.
            config.autocast_residual = recipe.model.get("autocast_residual", False)
        if source is None:
            return LlmJpModernBertForMaskedLM(config)
        # Mismatched sizes are reported by `_check_weights`.
        model, info = LlmJpModernBertForMaskedLM.from_pretrained(
            source.name,
            revision=source.revision,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except StrictDataclassError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UsageError(f"{place}: invalid configuration of {source} with the settings of model: {reason}") from error
    except loading_errors() as error:
        if isinstance(error, UsageError):
            raise
        if source is None:
            raise UsageError(f"model: {first_line(error)}") from error
        reason = unreadable_weights(source.path) or first_line(error)
        raise UsageError(f"{place}: {source} cannot be loaded as a model: {reason}") from error
    _check_weights(f"{place}: {source}", info)
    return cast("LlmJpModernBertForMaskedLM", model)


def set_up_layers(model: LlmJpModernBertForMaskedLM, recipe: PretrainingArguments) -> None:
    """Chooses the recipe's attention backends and compiles the layers if the recipe says so."""
    if recipe.attn_implementation is not None:
        model.set_attn_implementation(recipe.attn_implementation)
    if recipe.torch_compile:
        model.compile_layers(backend=recipe.torch_compile_backend, mode=recipe.torch_compile_mode)


def _change_kept(config: LlmJpModernBertConfig, recipe: PretrainingArguments, source: ModelReference) -> None:
    """Changes the configuration of trained weights; raises `UsageError` if they are laid out for another one."""
    heads, theta = config.num_attention_heads, config.global_rope_theta
    change_config(config, cast("dict[str, Any]", recipe.model))
    if recipe.theta_warmup_steps:
        if config.global_rope_theta == theta:
            raise UsageError(
                f"theta_warmup_steps: model.global_rope_theta={theta:g} is already the theta of {source}. Set "
                "theta_warmup_steps=0."
            )
        # The training moves it.
        config.global_rope_theta = theta
    config.validate()
    if config.num_attention_heads != heads:
        raise UsageError(f"model.num_attention_heads: the weights of {source} have {heads} heads. Remove it.")


def _check_weights(place: str, info: dict[str, Any]) -> None:
    """Checks that the weights are those of the configuration; only the vocabulary head may be missing.

    Args:
        place: beginning of messages.
        info: `output_loading_info` of `from_pretrained`.

    Raises:
        UsageError: other weights are missing, unknown or of another shape.
    """
    missing, unknown = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    is_headless = all(name.startswith("head.") or name == "decoder.bias" for name in missing)
    # Heads of other tasks are ignored.
    kept = [name for name in unknown if name.startswith(("model.", "head.", "decoder."))]
    problems = [
        f"{name} is {tuple(saved)} in the file, but {tuple(expected)} in the model"
        for name, saved, expected in sorted(info["mismatched_keys"])[:1]
    ]
    problems += [f"{len(missing)} weights are missing, such as {missing[0]}"] if not is_headless else []
    problems += [f"{len(kept)} weights are not part of the model, such as {kept[0]}"] if kept else []
    if problems:
        raise UsageError(
            f"{place}: its weights do not fit the configuration: {'; '.join(problems)}. Remove settings of model that "
            "change the shape, or name a complete model."
        )
    if missing:
        logger.warning("%s has no %s: they start with random values.", place, ", ".join(missing))


def make_masking(recipe: PretrainingArguments, tokenizer: PreTrainedTokenizerBase) -> Masking:
    """The masking of the recipe."""
    return Masking(
        tokenizer.mask_token_id,
        len(tokenizer),
        tokenizer.all_special_ids,
        recipe.mlm_probability,
        recipe.mask_share,
        recipe.random_share,
    )


def make_blocks(
    recipe: PretrainingArguments, tokenizer: PreTrainedTokenizerBase, index: BlockIndex | None = None
) -> BlockMaker:
    """The maker of the run's blocks.

    Raises:
        SourceError: the data does not exist, or was tokenized with a different tokenizer or Unicode normalization.
    """
    excluded = excluded_texts(recipe.exclude_data or [], recipe.text_column)
    sources = sources_of(recipe.train_data or [], recipe.text_column, excluded=excluded)
    check_tokenized_with(sources, tokenizer, recipe.normalization)
    return BlockMaker(sources, _block_settings(recipe), tokenizer, index)


def make_stream(recipe: PretrainingArguments, tokenizer: PreTrainedTokenizerBase) -> BatchStream:
    """The batches of this rank.

    Raises:
        SourceError: see `make_blocks`.
        UsageError: block_index does not exist, or belongs to other data or settings.
    """
    maker = make_blocks(recipe, tokenizer, None if recipe.block_index is None else BlockIndex(recipe.block_index))
    full, warmup = recipe.rows_per_device_batch, recipe.batch_warmup_steps

    def rows(step: int) -> int:
        return full if step >= warmup else max(1, math.ceil(full * (step + 1) / warmup))

    return BatchStream(
        maker,
        make_masking(recipe, tokenizer),
        rows,
        _mlm_probability(recipe),
        rank=recipe.process_index,
        ranks=recipe.world_size,
        lanes=recipe.data_lanes,
        workers=recipe.dataloader_num_workers,
        prefetch=recipe.dataloader_prefetch_factor or 2,
    )


def make_validation(recipe: PretrainingArguments, tokenizer: PreTrainedTokenizerBase) -> MaskedValidation | None:
    """The held-out text with masks that are the same in every run; None if the recipe has no validation_data.

    Raises:
        ValueError: the text does not exist or is too short.
    """
    if not recipe.validation_data:
        return None
    corpus = read_held_out(
        recipe.validation_data,
        recipe.text_column,
        _block_settings(recipe),
        tokenizer,
        recipe.max_validation_tokens,
    )
    return MaskedValidation(corpus, make_masking(recipe, tokenizer), tokenizer.cls_token_id, tokenizer.sep_token_id)


def _block_settings(recipe: PretrainingArguments) -> BlockSettings:
    return BlockSettings(
        sequence_length=recipe.sequence_length,
        packed=recipe.packing == "best_fit",
        truncate=recipe.long_documents == "truncate",
        shuffle=recipe.shuffle,
        characters=recipe.block_characters,
        interleave=recipe.interleave,
        seed=recipe.seed,
        normalization=recipe.normalization,
        strict=recipe.strict,
        whole_word=recipe.whole_word,
        balanced_rows=_balanced_rows(recipe),
    )


def _balanced_rows(recipe: PretrainingArguments) -> int:
    """Rows of a lane in an optimizer step, which are those of one rank; 0 without `balance_attention`."""
    if not (recipe.balance_attention and recipe.shuffle):
        return 0
    if recipe.data_lanes % recipe.world_size:
        raise UsageError(
            f"balance_attention: data_lanes={recipe.data_lanes} is not a multiple of the number of ranks. Set "
            f"data_lanes={recipe.world_size}."
        )
    return max(1, recipe.rows_per_step // recipe.data_lanes)


def _mlm_probability(recipe: PretrainingArguments) -> Callable[[int], float] | None:
    """The masking probability by step, if it changes during learning-rate decay."""
    if recipe.final_mlm_probability is None:
        return None
    decay = (recipe.lr_scheduler_kwargs or {}).get("num_decay_steps", 0)
    decay_start = recipe.max_steps - recipe.schedule().steps(decay)
    before, after = recipe.mlm_probability, recipe.final_mlm_probability
    return lambda step: before if step < decay_start else after

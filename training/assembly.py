"""From a recipe to the parts of its run: tokenizer, model, masking, batches and held-out text."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.loading import load_tokenizer, split_revision
from llm_jp_modernbert.tokenization import check_fits

from .data.blocks import BlockMaker, BlockSettings
from .data.masking import Masking
from .data.sources import check_tokenized_with, read_held_out, sources_of
from .data.stream import BatchStream
from .data.validation import MaskedValidation
from .recipe.arguments import PretrainingArguments
from .recipe.schedule import Schedule
from .recipe.shapes import change_config, model_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llm_jp_modernbert.modeling.modeling_llm_jp_modernbert import LlmJpModernBertForMaskedLM


def make_tokenizer(arguments: PretrainingArguments) -> PreTrainedTokenizerBase:
    """The recipe's tokenizer, or else that of the model that training starts from.

    Raises:
        UsageError: there is none, or it lacks a token that masked-LM training needs.
    """
    tokenizer = load_tokenizer(arguments.tokenizer or str(arguments.init_from))
    missing = [name for name in ("cls", "sep", "mask", "pad") if getattr(tokenizer, f"{name}_token_id") is None]
    if missing:
        raise UsageError(
            f"tokenizer: {tokenizer.name_or_path} has no {', '.join(missing)} token. Give one of an encoder."
        )
    return tokenizer


def make_model(
    arguments: PretrainingArguments, tokenizer: PreTrainedTokenizerBase, checkpoint: Path | None = None
) -> LlmJpModernBertForMaskedLM:
    """The model: new, from `init_from`, or in the shape of a checkpoint, whose weights Trainer loads.

    Raises:
        UsageError: no such model, or one that does not fit the recipe or the tokenizer.
    """
    import torch

    from llm_jp_modernbert.modeling.configuration_llm_jp_modernbert import LlmJpModernBertConfig
    from llm_jp_modernbert.modeling.modeling_llm_jp_modernbert import LlmJpModernBertForMaskedLM

    overrides: dict[str, Any] = dict(arguments.model) if isinstance(arguments.model, dict) else {}
    name, revision = split_revision(str(arguments.init_from)) if arguments.init_from else ("", None)
    try:
        if checkpoint is not None:
            config = LlmJpModernBertConfig.from_pretrained(checkpoint)
        elif name:
            config = LlmJpModernBertConfig.from_pretrained(name, revision=revision)
            change_config(config, overrides)
        else:
            ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("pad", "cls", "sep")}
            config = model_config(arguments.model, len(tokenizer), **ids)
        check_fits(tokenizer, config)
        if arguments.sequence_length > config.max_position_embeddings:
            raise UsageError(
                f"sequence_length: {arguments.sequence_length} tokens, but the model reads "
                f"{config.max_position_embeddings} (max_position_embeddings). Shorten it, or set "
                f"model.max_position_embeddings={arguments.sequence_length}."
            )
        # What training saves is for everyone's transformers.
        config.checkpoint_format = "plain"
        if checkpoint is not None or not name:
            return LlmJpModernBertForMaskedLM(config)
        model: LlmJpModernBertForMaskedLM = LlmJpModernBertForMaskedLM.from_pretrained(
            name, revision=revision, config=config, dtype=torch.float32
        )
        return model
    except (OSError, KeyError, RuntimeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UsageError(f"init_from: {arguments.init_from} cannot be loaded as a model: {reason}") from error


def make_masking(arguments: PretrainingArguments, tokenizer: PreTrainedTokenizerBase) -> Masking:
    """How the recipe masks."""
    return Masking(
        tokenizer.mask_token_id,
        len(tokenizer),
        tokenizer.all_special_ids,
        arguments.mlm_probability,
        arguments.mask_share,
        arguments.random_share,
    )


def make_stream(arguments: PretrainingArguments, tokenizer: PreTrainedTokenizerBase) -> BatchStream:
    """This rank's batches.

    Raises:
        SourceError: the data is not there, or was tokenised with another tokenizer or in another Unicode form.
    """
    sources = sources_of(arguments.train_data or [], arguments.text_column)
    check_tokenized_with(sources, tokenizer, arguments.normalization)
    full, warmup = arguments.rows_per_device_batch, arguments.batch_warmup_steps

    def rows(step: int) -> int:
        return full if step >= warmup else max(1, math.ceil(full * (step + 1) / warmup))

    return BatchStream(
        BlockMaker(sources, _block_settings(arguments), tokenizer),
        make_masking(arguments, tokenizer),
        rows,
        _probability(arguments),
        rank=arguments.process_index,
        ranks=arguments.world_size,
        lanes=arguments.data_lanes,
        workers=arguments.dataloader_num_workers,
    )


def make_validation(arguments: PretrainingArguments, tokenizer: PreTrainedTokenizerBase) -> MaskedValidation | None:
    """The held-out text with masks that are the same in every run, or None where the recipe names none.

    Raises:
        ValueError: the text is not there, or too short.
    """
    if not arguments.validation_data:
        return None
    corpus = read_held_out(
        arguments.validation_data,
        arguments.text_column,
        _block_settings(arguments),
        tokenizer,
        arguments.max_validation_tokens,
    )
    masking = make_masking(arguments, tokenizer)
    return MaskedValidation(corpus, masking, tokenizer.cls_token_id, tokenizer.sep_token_id)


def _block_settings(arguments: PretrainingArguments) -> BlockSettings:
    return BlockSettings(
        sequence_length=arguments.sequence_length,
        packed=arguments.packing == "best_fit",
        truncate=arguments.long_documents == "truncate",
        shuffle=arguments.shuffle,
        characters=arguments.block_characters,
        interleave=arguments.interleave,
        seed=arguments.seed,
        normalization=arguments.normalization,
        strict=arguments.strict,
        whole_word=arguments.whole_word,
    )


def _probability(arguments: PretrainingArguments) -> Any:
    """The masked-LM probability by step: another one where the learning rate decays."""
    if arguments.final_mlm_probability is None:
        return None
    decay = dict(arguments.lr_scheduler_kwargs or {}).get("num_decay_steps", 0)  # type: ignore[arg-type]
    begins = arguments.max_steps - Schedule(arguments.max_steps).steps(decay)
    usual, final = arguments.mlm_probability, arguments.final_mlm_probability
    return lambda step: usual if step < begins else final

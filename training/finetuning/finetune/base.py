"""The base of a fine-tuning: its tokenizer, the length that it reads, and the model with a head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.errors import UsageError, first_line
from llm_jp_modernbert.core.hub_errors import limit_waiting
from llm_jp_modernbert.core.references import ModelReference
from llm_jp_modernbert.inference.auto import registered_for_modernbert
from llm_jp_modernbert.inference.heads import ENCODER, HEADS, MASKED_LM, Head
from llm_jp_modernbert.inference.loading import (
    check_vocabulary,
    context_length,
    load_tokenizer,
    loading_errors,
    model_revision,
)

from ..head_task import HeadTask

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Base:
    """A model to start from.

    Attributes:
        reference: directory or repository.
        revision: commit of the repository, or `sha256:…` of the weights.
        config: its configuration.
        tokenizer: its tokenizer, which truncates to `max_length`.
        max_length: maximum tokens of an input.
    """

    reference: ModelReference
    revision: str
    config: Any
    tokenizer: PreTrainedTokenizerBase
    max_length: int

    @property
    def name(self) -> str:
        """The repository, or the name of the directory without its parents."""
        reference = self.reference
        return reference.path.resolve().name if reference.is_local else reference.name

    @property
    def parameters(self) -> int:
        """Parameters of the encoder."""
        import torch
        from transformers import AutoModel

        with torch.device("meta"):
            return int(AutoModel.from_config(self.config).num_parameters())

    def head_is_replaced(self, task: HeadTask[Any]) -> bool:
        """Whether the base has a head for another type of task, or for other labels."""
        if self._head in (None, MASKED_LM, ENCODER):
            return False
        settings = task.head_settings()
        return self._head != task.head or any(
            getattr(self.config, name, None) != value for name, value in settings.items()
        )

    def head_line(self, task: HeadTask[Any]) -> str:
        """Where the head of the model comes from."""
        if not self.head_is_replaced(task):
            return "that of the base, trained further" if self._head == task.head else "new"
        if self._head is not None and self._head != task.head:
            return f"new: the base is a {self._head.name}"
        labels = getattr(self.config, "id2label", {}).values()
        return f"new: that of the base is for other labels ({', '.join(map(str, list(labels)[:5]))})"

    @property
    def _head(self) -> Head | None:
        architecture, *_ = getattr(self.config, "architectures", None) or [""]
        return next((head for head in HEADS if str(architecture).endswith(head.suffix)), None)


def open_base(name: str, tokenizer: str | None = None, max_length: int | None = None) -> Base:
    """Checks a base and loads its tokenizer; weights are not loaded.

    Args:
        name: directory, repository, or `ORG/NAME@REVISION`.
        tokenizer: tokenizer, if the base has none.
        max_length: maximum tokens of an input; by default as many as the base reads.

    Raises:
        UsageError: the base is not a model or has a decoder, its tokenizer is missing or has more tokens than its
            vocabulary, or `max_length` is longer than its inputs.
    """
    from transformers import AutoConfig

    reference = ModelReference.parse(name)
    reference.check_model()
    if not reference.is_local:
        limit_waiting()
    revision = model_revision(reference)
    try:
        config = AutoConfig.from_pretrained(reference.name, revision=reference.revision)
    except loading_errors() as error:
        raise UsageError(f"{name}: cannot be loaded. {first_line(error)}") from error
    loaded = load_tokenizer(tokenizer) if tokenizer else load_tokenizer(reference.name, reference.revision)
    check_vocabulary(config, loaded)
    if config.is_encoder_decoder:
        raise UsageError(f"{name}: not an encoder: {config.model_type} models have a decoder.")
    limit = context_length(config, loaded)
    if max_length is not None and max_length > limit:
        raise UsageError(f"--max-length {max_length:,}: {name} reads at most {limit:,} tokens.")
    loaded.model_max_length = max_length or limit
    return Base(reference, revision, config, loaded, loaded.model_max_length)


def load_with_head(base: Base, task: HeadTask[Any], seed: int) -> PreTrainedModel:
    """The base with the head of a task, in float32; `modernbert` checkpoints as this package's class.

    Args:
        base: the base.
        task: type of task.
        seed: random seed of new weights.

    Raises:
        UsageError: the base has no such head.
    """
    import transformers

    auto = getattr(transformers, task.head.auto_class)
    is_replaced = base.head_is_replaced(task)
    transformers.set_seed(seed)
    try:
        with registered_for_modernbert():
            model: PreTrainedModel = auto.from_pretrained(
                base.reference.name,
                revision=base.reference.revision,
                dtype="float32",
                ignore_mismatched_sizes=is_replaced,
                # The base may have labels that a head without labels must not keep.
                **{"num_labels": 2, "problem_type": None, **task.head_settings()},
            )
            if is_replaced:
                # Equal sizes do not make labels equal.
                new = auto.from_config(model.config).state_dict()
                encoder = f"{model.base_model_prefix}."
                head = {name: value for name, value in new.items() if not name.startswith(encoder)}
                model.load_state_dict(head, strict=False)
    except loading_errors() as error:
        raise UsageError(
            f"{base.reference}: cannot be loaded as {task.head.auto_class}. {first_line(error)}"
        ) from error
    return model


def load_finetuned(folder: Path, task: HeadTask[Any]) -> PreTrainedModel:
    """A model that `finetune` has saved, in float32."""
    import transformers

    with registered_for_modernbert():
        model: PreTrainedModel = getattr(transformers, task.head.auto_class).from_pretrained(folder, dtype="float32")
    return model

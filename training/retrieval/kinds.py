"""Types of retrieval model: what they learn from, and how they are built, trained and saved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from llm_jp_modernbert.core.errors import UsageError, first_line
from llm_jp_modernbert.core.files import read_config
from llm_jp_modernbert.inference.auto import registered_for_modernbert
from llm_jp_modernbert.inference.loading import loading_errors
from llm_jp_modernbert.inference.retrieval.layout import make_portable, port_modules
from llm_jp_modernbert.inference.retrieval.loading import saved_type

from .dataset import Example, Form
from .options import PASSAGE_PROMPT, QUERY_PROMPT, RetrievalOptions

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn

    from ..finetuning.finetune.base import Base

FORM_NAMES: Mapping[Form, str] = {
    "pairs": "pairs of a query and a passage",
    "triplets": "queries with negative passages",
    "scored": "scored pairs",
    "distillation": "scores of a teacher",
    "texts": "texts alone",
}
"""Forms of training data in messages."""


class RetrievalKind(ABC):
    """A type of model, and everything that differs between types.

    Args:
        options: options of the command.
    """

    model_class: ClassVar[Any]
    """Class of sentence-transformers, extended by `InPieces`."""
    trainer_class: ClassVar[Any]
    losses_by_form: ClassVar[Mapping[Form, tuple[str, ...]]]
    """Losses by form of the training data; the first is the default."""

    def __init__(self, options: RetrievalOptions) -> None:
        self.options: Any = options

    @property
    def forms(self) -> tuple[Form, ...]:
        """Forms of training data that this type learns from."""
        return tuple(self.losses_by_form)

    def loss_name(self, form: Form) -> str:
        """The loss for a form of training data, as for `--loss`; `auto` is resolved.

        Raises:
            UsageError: this type of model, or the loss, does not learn from such data.
        """
        if form not in self.losses_by_form:
            known = " or ".join(FORM_NAMES[other] for other in self.forms)
            raise UsageError(
                f"--train: train-{self.options.kind} does not learn from {FORM_NAMES[form]}. Give {known}."
            )
        name: str = self.options.loss
        if name == "auto":
            return self.losses_by_form[form][0]
        if name not in self.losses_by_form[form]:
            choices = " or ".join(self.losses_by_form[form])
            raise UsageError(f"--loss {name}: does not learn from {FORM_NAMES[form]}. Choose {choices}.")
        return name

    def prompts(self, form: Form) -> dict[str, str]:
        """Prefixes of `query` and `document` in training, which the model keeps; none by default for texts to compare.

        Args:
            form: form of the training data.
        """
        is_search = form in ("pairs", "triplets", "distillation")
        given = {"query": self.options.query_prompt, "document": self.options.passage_prompt}
        default = {"query": QUERY_PROMPT, "document": PASSAGE_PROMPT} if is_search else dict.fromkeys(given, "")
        return {name: default[name] if prompt is None else prompt for name, prompt in given.items()}

    @abstractmethod
    def build(self, base: Base, seed: int, form: Form) -> Any:
        """The model before training, in float32; `modernbert` checkpoints as this package's class.

        Args:
            base: an encoder, or a model of sentence-transformers of this type, whose modules are kept.
            seed: random seed of new weights.
            form: form of the training data.

        Raises:
            UsageError: the base cannot be loaded as such a model.
        """

    @abstractmethod
    def loss(self, model: Any, form: Form, tokens_per_batch: int) -> nn.Module:
        """The loss, which computes a batch in pieces.

        Args:
            model: a model of `build`; the size of its pieces is set.
            form: form of the training data.
            tokens_per_batch: maximum tokens of a piece; a longer text is a piece of its own.
        """

    @abstractmethod
    def columns(self, examples: Sequence[Example], form: Form) -> Dataset:
        """Training examples as columns in the order that the loss expects, with prompts.

        Raises:
            UsageError: the loss needs more passages per example.
        """

    def trainer_arguments(self, form: Form) -> dict[str, Any]:
        """Arguments of the trainer that the loss requires."""
        # A passage that occurs twice in a batch would be a negative of its own query.
        return {"batch_sampler": "no_duplicates"} if self.loss_name(form) in ("cached-mnrl", "mnrl") else {}

    def ranker(self, model: Any, tokens_per_batch: int) -> Any:
        """Ranks passages with a model of this type (`inference.retrieval.rankers`)."""
        from llm_jp_modernbert.inference.retrieval.rankers import ranker_of

        return ranker_of(model, tokens_per_batch)

    def save(self, model: Any, folder: Path) -> None:
        """Saves a model in the layout that versions 5.1 and 6.2 of sentence-transformers read alike."""
        model.save_pretrained(str(folder), create_model_card=False)
        # Versions 4 and 5 of transformers write other configurations alike.
        port = make_portable if read_config(folder).get("model_type") == "modernbert" else port_modules
        port(folder)

    def load(
        self, base: Base, modules: Callable[[Callable[..., Any]], list[nn.Module]], seed: int, **settings: Any
    ) -> Any:
        """The base as a model: with its own modules if it is of this type, else with new ones.

        Args:
            base: the base.
            modules: returns new modules; it is given a function that loads the `Transformer` module for a task.
            seed: random seed of new weights.
            settings: arguments of `model_class`.
        """
        import torch
        import transformers
        from sentence_transformers.base.modules import Transformer

        common: dict[str, Any] = {"revision": base.reference.revision} if base.reference.revision else {}
        transformers.set_seed(seed)
        with ExitStack() as stack:
            stack.enter_context(registered_for_modernbert())
            places: dict[str, Any] = {}
            if self.options.tokenizer:
                folder = stack.enter_context(TemporaryDirectory())
                base.tokenizer.save_pretrained(folder)
                places = {"tokenizer_name_or_path": folder}

            def transformer(task: str, weights: Mapping[str, Any] = MappingProxyType({}), **config: Any) -> Any:
                return Transformer(
                    base.reference.name,
                    transformer_task=task,
                    model_kwargs={"dtype": torch.float32, **weights, **common},
                    processor_kwargs=dict(common),
                    config_kwargs={**config, **common},
                    **places,
                )

            try:
                if self.is_own(base):
                    model = self.model_class(
                        base.reference.name, model_kwargs={"dtype": torch.float32}, **common, **settings
                    )
                else:
                    model = self.model_class(modules=modules(transformer), **settings)
            except loading_errors() as error:
                raise UsageError(f"{base.reference}: cannot be loaded. {first_line(error)}") from error
        model.max_seq_length = base.max_length
        config = model[0].model.config
        if hasattr(config, "checkpoint_format"):
            config.checkpoint_format = "plain"
        return model

    def is_own(self, base: Base) -> bool:
        """Whether the base is a model of sentence-transformers of this type."""
        return saved_type(base.reference) == self.model_class.model_type

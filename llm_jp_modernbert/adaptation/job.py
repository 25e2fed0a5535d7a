"""Everything that an adaptation works with."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llm_jp_modernbert.core.progress import progress_bar
from llm_jp_modernbert.core.terminal import console
from llm_jp_modernbert.evaluation.encoders.models import EvaluatedModel, ModelName
from llm_jp_modernbert.training.finetuning.finetune.base import Base
from llm_jp_modernbert.training.finetuning.finetune.folder import Folder
from llm_jp_modernbert.training.recipe.arguments import PretrainingArguments
from llm_jp_modernbert.training.recipe.loading import decisive
from llm_jp_modernbert.training.recipe.values import default_values, plain_value
from llm_jp_modernbert.training.run.summary import Stage

from .measuring import Scores, Windows
from .options import AdaptOptions
from .texts import HeldOut, Texts

OPTIONS = "adaptation.yaml"
"""File of everything that the model depends on."""

HELD_OUT = "held-out"
"""Directory of the documents that the model is measured on."""

# Options that the recipe contains, or that do not affect the model.
_NOT_DECISIVE = ("out", "overrides", "epochs", "max_tokens", "text_column", "seed")
# Keys of the recipe that name the same files as the options.
_PATHS = ("init_from", "train_data", "exclude_data")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """An adaptation.

    Attributes:
        options: options of the command.
        base: the model to start from.
        stages: its training stages.
        texts: the texts.
        recipe: the recipe.
        folder: the directory.
    """

    options: AdaptOptions
    base: Base
    stages: list[Stage]
    texts: Texts
    recipe: PretrainingArguments
    folder: Folder

    @property
    def held_out(self) -> dict[str, HeldOut]:
        """The texts to measure on: `domain` and, if there is any, `general`."""
        texts = {"domain": self.texts.domain, "general": self.texts.general}
        return {name: held_out for name, held_out in texts.items() if held_out is not None}

    @property
    def files(self) -> dict[str, Path]:
        """Their files, until the adaptation is finished."""
        return {name: self.folder.unfinished / HELD_OUT / f"{name}.jsonl" for name in self.held_out}

    @cached_property
    def windows(self) -> dict[str, Windows]:
        """Their windows that models are measured on."""
        return {
            name: Windows(self.base.tokenizer, held_out.texts, self.base.max_length, self.options.seed)
            for name, held_out in self.held_out.items()
        }

    def decisive(self) -> dict[str, Any]:
        """Everything that the model depends on: options, revisions, and the recipe."""
        chosen = {name: value for name, value in asdict(self.options).items() if name not in _NOT_DECISIVE}
        corpora = {"train": self.texts.train, "replay": self.texts.replay, **self.held_out}
        revisions = {name: corpus.revision for name, corpus in corpora.items() if corpus is not None}
        defaults, own = default_values(PretrainingArguments), PretrainingArguments.__annotations__
        recipe = {
            name: value
            for name, value in decisive(self.recipe).items()
            if name not in _PATHS and (name in own or value != plain_value(defaults[name]))
        }
        return {**chosen, "base_revision": self.base.revision, "data_revisions": revisions, "recipe": recipe}

    def start(self) -> None:
        """Creates the directory, and writes the documents that are held out."""
        self.folder.start()
        (self.folder.unfinished / HELD_OUT).mkdir(exist_ok=True)
        for name, path in self.files.items():
            self.held_out[name].write(path, self.options.text_column)

    def measure(self, model: str, label: str) -> dict[str, Scores]:
        """Scores of a model on the held-out texts.

        Args:
            model: directory or repository.
            label: what it is, for the progress bar.

        Raises:
            UsageError: it is not a masked language model.
        """
        evaluated = EvaluatedModel(ModelName(model, device=str(self.recipe.device)))
        logger.info("measuring the %s", label)
        scores = {}
        for name, windows in self.windows.items():
            with progress_bar(console(), transient=True) as bar:
                task = bar.add_task(f"measuring the {label} on {name} text", total=1.0)
                scores[name] = windows.measure(evaluated, lambda share: bar.update(task, completed=share))  # noqa: B023
        return scores

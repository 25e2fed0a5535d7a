"""Writing the checkpoints of a run, and reading what a run resumes from.

Trainer writes each checkpoint into a staging directory. `CheckpointWriter` completes it and moves it into the run
directory, so that a checkpoint is either complete or absent.
"""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState, TrainingArguments
from typing_extensions import NotRequired, TypedDict

from llm_jp_modernbert.core.errors import first_line, is_failed_write
from llm_jp_modernbert.core.files import read_json

from .data.stream import StreamState
from .recipe.arguments import PretrainingArguments
from .recipe.loading import RECIPE, render
from .run import checkpoints, summary
from .run.checkpoints import CheckpointError
from .run.totals import Totals

# The states of all ranks, whose number can be in the thousands: a file for each would have to be synchronized alone.
_RANKS = "data.json"

# A log of a million steps.
_STATE_LIMIT = 2**30

logger = logging.getLogger(__name__)


class _Logging(TypedDict):
    loss: float
    step: int


class RankState(TypedDict):
    """State of a rank in a checkpoint, apart from what Trainer saves: see `PretrainingTrainer.complete_checkpoint`."""

    weights_alone: NotRequired[bool]
    initial_theta: NotRequired[float]
    stream: StreamState
    epoch: int
    totals: dict[str, float]
    logged: dict[str, float]
    logging: _Logging


class _RankStates(TypedDict):
    ranks: list[RankState]


class _State(TypedDict):
    global_step: int
    log_history: list[dict[str, Any]]


class CheckpointWriter:
    """Completes checkpoints that Trainer has written.

    Args:
        arguments: arguments of the trainer.
        wait_for_everyone: barrier over all ranks.
        resume: how to continue after an error, as the end of a message.

    Attributes:
        staging: directory that Trainer must write checkpoints to.
    """

    def __init__(
        self,
        arguments: TrainingArguments,
        wait_for_everyone: Callable[[], None],
        resume: str = "resume with resume_from_checkpoint=true",
    ) -> None:
        self._run = Path(str(arguments.output_dir))
        self.staging = checkpoints.staging(self._run)
        self._wait, self._resume = wait_for_everyone, resume
        self._limit, self._main = arguments.save_total_limit, arguments.process_index == 0

    def publish(self, state: TrainerState, describe: Callable[[Path], None], kept: Collection[int] = ()) -> None:
        """Seals the staged checkpoint, moves it into place and removes old ones. Every rank must call it.

        Args:
            state: state of the trainer.
            describe: adds files to the checkpoint; called on rank 0, when all ranks have written theirs.
            kept: steps whose checkpoints are neither removed nor counted.
        """
        self._wait()
        if self._main:
            partial = checkpoints.folder_of(self.staging, state.global_step)
            describe(partial)
            final = checkpoints.folder_of(self._run, state.global_step)
            checkpoints.publish(partial, final)
            checkpoints.rotate(self._run, self._limit, final, kept)
        self._wait()

    def _intact(self) -> str:
        saved = checkpoints.checkpoints(self._run)
        return f"{saved[-1]} is intact" if saved else "no earlier checkpoint exists"

    @contextmanager
    def cleanup(self) -> Iterator[None]:
        """Removes the staging directory; if training or saving fails, explains the failure. Every rank must call it.

        Raises:
            CheckpointError: writing failed (libraries raise different errors for a full disk), or a process that
                prepares data has ended.
        """
        try:
            yield
        except KeyboardInterrupt:
            logger.warning("Stopped without saving; %s.", self._intact())
            raise
        except Exception as error:
            intact = self._intact()
            if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
                raise CheckpointError(
                    f"A process that prepares data was killed, perhaps for lack of memory; {intact}. "
                    f"{self._resume[0].upper()}{self._resume[1:]}, with fewer dataloader_num_workers."
                ) from error
            if not self._main or not self.staging.is_dir() or not any(self.staging.iterdir()):
                raise
            partial = checkpoints.checkpoints(self.staging)
            name = self._run / partial[-1].name if partial else f"The model in {self._run}"
            remedy = "Free disk space" if is_failed_write(error) else "Solve the problem"
            raise CheckpointError(
                f"{name} could not be written ({first_line(error)}); {intact}. {remedy} and {self._resume}."
            ) from error
        else:
            # At its end, Trainer lists the staging directory on every rank.
            self._wait()
        finally:
            if self._main:
                shutil.rmtree(self.staging, ignore_errors=True)


class PretrainingCheckpoints(CheckpointWriter):
    """Completes checkpoints with the recipe, counts, and the position in the data.

    Args:
        recipe: the recipe.
        wait_for_everyone: barrier over all ranks.
        earlier_stages: training stages of the model before this run, see `run.summary`.
    """

    def __init__(
        self,
        recipe: PretrainingArguments,
        wait_for_everyone: Callable[[], None],
        earlier_stages: Sequence[summary.Stage] = (),
    ) -> None:
        super().__init__(recipe, wait_for_everyone)
        self._recipe, self._earlier_stages = recipe, earlier_stages

    def complete(self, state: TrainerState, totals: Totals, rank_states: Sequence[Mapping[str, Any]]) -> None:
        """Adds the missing files to the staged checkpoint, and publishes it. Every rank must call it.

        Args:
            state: state of the trainer.
            totals: counts of the run.
            rank_states: JSON values that the ranks need for resuming, on rank 0.
        """

        def describe(folder: Path) -> None:
            (folder / _RANKS).write_text(json.dumps({"ranks": rank_states}) + "\n", encoding="utf-8")
            self.describe(folder, state, totals)

        self.publish(state, describe, self._recipe.keep_steps or ())

    def describe(self, folder: Path, state: TrainerState, totals: Totals) -> None:
        """Writes recipe.yaml and training.json into a saved model, instead of Trainer's pickled arguments."""
        (folder / "training_args.bin").unlink(missing_ok=True)
        (folder / RECIPE).write_text(render(self._recipe), encoding="utf-8")
        stage = summary.stage_of(self._recipe, totals, state, self._recipe.schedule().max_steps)
        summary.write([*self._earlier_stages, stage], folder)

    def rehearse(self, save_model: Callable[[str], None], state: TrainerState, totals: Totals) -> None:
        """Saves the model and removes it again, so that a run that cannot save fails before its first step.

        Every rank must call it.
        """
        folder = checkpoints.folder_of(self.staging, state.global_step)
        save_model(str(folder))
        if self._main:
            self.describe(folder, state, totals)
            shutil.rmtree(folder)
        self._wait()


def read_state(checkpoint: Path) -> TrainerState:
    """The state of the trainer in a checkpoint.

    Raises:
        UsageError: the file is missing or not JSON of the right type.
        CheckpointError: another version of transformers has written it.
    """
    file = checkpoint / "trainer_state.json"
    read_json(file, _State, max_bytes=_STATE_LIMIT)
    try:
        return TrainerState.load_from_json(str(file))
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{file}: not the state of a trainer ({first_line(error)}).") from error


def read_rank_states(checkpoint: Path) -> list[RankState]:
    """The states that `PretrainingCheckpoints.complete` wrote into a checkpoint, by rank.

    Raises:
        CheckpointError: the checkpoint holds none, or has no optimizer state.
        UsageError: a file is not JSON of the right type.
    """
    if (checkpoint / _RANKS).is_file():
        states = read_json(checkpoint / _RANKS, _RankStates)["ranks"]
    else:
        # Earlier versions wrote a file for each rank.
        states = [read_json(file, RankState) for file in sorted(checkpoint.glob("data-*.json"))]
    if not states:
        raise CheckpointError(f"{checkpoint} has no {_RANKS}: it was not written by this command.")
    if states[0].get("weights_alone"):
        raise CheckpointError(
            f"{checkpoint} was written with save_only_model=true and has no optimizer state to resume with. Start a "
            "new run from its weights with init_from."
        )
    return states


def load_moments(optimizer: torch.optim.Optimizer, source: Path) -> None:
    """Loads the state of an earlier optimizer, such as AdamW's moments, but not its hyperparameters.

    Args:
        optimizer: optimizer to load into.
        source: a checkpoint, or a run directory, whose newest checkpoint is used.

    Raises:
        CheckpointError: the optimizer state is missing or belongs to a different model.
    """
    if not (source / "optimizer.pt").is_file():
        source = (checkpoints.newest_sound(source) if source.is_dir() else None) or source
    try:
        saved = torch.load(source / "optimizer.pt", map_location="cpu", weights_only=True)
        # Parameters are known by their order in the groups.
        sizes, own = (
            [len(group["params"]) for group in groups] for groups in (saved["param_groups"], optimizer.param_groups)
        )
        optimizer.load_state_dict({**optimizer.state_dict(), "state": saved["state"]})
    except (OSError, EOFError, KeyError, RuntimeError, ValueError, TypeError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"init_optimizer: {source} holds no matching optimizer state ({first_line(error)}). Name a run or one of "
            "its checkpoints in init_from, or set init_optimizer=fresh."
        ) from error
    fits = all(
        moment.shape == parameter.shape
        for parameter, moments in optimizer.state.items()
        for moment in moments.values()
        if moment.ndim
    )
    if sizes != own or not fits:
        raise CheckpointError(
            f"init_optimizer: the optimizer state in {source} belongs to a different model or was saved with a "
            "different optim or decay_norms_and_biases."
        )

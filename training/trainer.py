"""Trainer for packed masked-LM pre-training: transformers' own, where it feeds, counts, checks and saves.

Each override does one thing that Trainer leaves open: batches come from a `BatchStream`; all that ranks have to agree
on is summed once per optimizer step, on the CPU, so that no GPU waits for it; a checkpoint is complete or absent and
holds what exact resuming needs; validation uses fixed masks and all ranks.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from llm_jp_modernbert.modeling.flops import peak_flops, training_flops

from .data.blocks import Block
from .data.stream import BatchInfo, BatchStream
from .data.validation import MaskedValidation
from .recipe.arguments import PretrainingArguments
from .recipe.loading import RECIPE
from .recipe.schedule import Schedule
from .run import checkpoints, summary
from .run.checkpoints import CheckpointError, StopSignals
from .run.totals import Totals
from .sharding import keep_float32

# Trainer wants a number of steps; where tokens or time end the run, they end it long before.
_NO_LIMIT = 10**12


class NonFiniteLoss(ValueError):
    """A loss or gradient that is not a number, or infinite; the message says where the batch is described."""


class PretrainingTrainer(Trainer):
    """Trains a masked language model on a stream of packed batches.

    Args:
        model: takes packed input, as `LlmJpModernBertForMaskedLM` does.
        args: the recipe.
        stream: this rank's batches; blocks that it begins are to be given to `report_block`.
        tokenizer: saved with every checkpoint.
        validation: held-out text, where there is some.
        callbacks: further callbacks.
        stop: notes signals that ask for a last save.
        warn: is told in one line what the user ought to know.
        earlier_stages: what the model went through before, see `summary`.
    """

    args: PretrainingArguments
    model: PreTrainedModel
    processing_class: PreTrainedTokenizerBase | None

    def __init__(
        self,
        model: PreTrainedModel,
        args: PretrainingArguments,
        stream: BatchStream,
        tokenizer: PreTrainedTokenizerBase | None = None,
        validation: MaskedValidation | None = None,
        callbacks: list[TrainerCallback] | None = None,
        stop: StopSignals | None = None,
        warn: Callable[[str], Any] = print,
        earlier_stages: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.earlier_stages = earlier_stages
        self.stream = stream
        self.validation = validation
        self.totals = Totals()
        self.stop = stop or StopSignals()
        self.warn = warn
        self.epoch = 0
        if args.n_gpu > 1:
            # Or Trainer would split packed rows among the GPUs that it sees; each process uses one.
            args._n_gpu = 1
        self.schedule = Schedule(
            args.max_steps if args.max_steps > 0 else None,
            args.max_tokens,
            None if args.max_minutes is None else 60 * args.max_minutes,
            tokens=lambda: int(self.totals.tokens),
            seconds=lambda: self.totals.seconds,
        )
        if args.max_steps <= 0:
            args.max_steps = _NO_LIMIT
        # What this rank has counted and the others do not know yet.
        self._uncounted = Totals()
        self._clock = time.perf_counter()
        self._asked_to_stop = False
        self._infos: list[BatchInfo] = []
        self._losses: list[torch.Tensor] = []
        self._staging: Path | None = None
        self._resumed: dict[str, Any] | None = None
        self._logged = Totals()
        super().__init__(
            model=model,
            args=args,
            processing_class=tokenizer,
            eval_dataset=validation,
            callbacks=[_Hooks(self), *(callbacks or [])],
        )
        self.remove_callback(PrinterCallback)
        keep_float32(getattr(self.accelerator.state, "fsdp_plugin", None))
        # Small sums that all ranks need go over the CPU.
        several = self.args.world_size > 1
        self._group = torch.distributed.new_group(backend="gloo") if several else None

    # What is trained on

    def get_train_dataloader(self) -> Any:
        """The batches of this rank, from its present place on."""
        return _Batches(self.stream, self.args.gradient_accumulation_steps)

    def report_block(self, block: Block) -> None:
        """Counts a block that is begun, and names rows that could not be read."""
        self._uncounted.add_block(block)
        for problem in block.problems:
            self.warn(f"left out: {problem}")
        unnamed = block.counts["broken_rows"] - len(block.problems)
        if unnamed:
            self.warn(f"left out: {unnamed:,} more rows near there")

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], torch.Tensor]:
        """The batches of an optimizer step, and the number of predicted tokens in those of all ranks."""
        batches = [next(epoch_iterator) for _ in range(num_batches)]
        self._infos = [batch.pop("info") for batch in batches]
        self._losses = []
        self.epoch = max(info.epoch for info in self._infos)
        counted = self._uncounted
        for info in self._infos:
            counted.add_batch(info, training_flops(self.model.config, info.lengths, info.labels))
        now = time.perf_counter()
        # One clock for all ranks, or they would not stop at the same step.
        counted.seconds = now - self._clock if self.is_world_process_zero() else 0.0
        self._clock = now
        labels = float(sum(info.labels for info in self._infos))
        *values, labels, asked = self._sum([*counted.values(), labels, float(self.stop.received is not None)])
        self.totals.add(values)
        self._uncounted = Totals()
        self._asked_to_stop = asked > 0
        return batches, torch.tensor(max(1.0, labels), device=device)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """As Trainer's; the loss of a batch is looked at when its step is complete, which spares waiting for it."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._losses.append(loss)
        return torch.nan_to_num(loss, nan=0.0, posinf=0.0, neginf=0.0)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """As Trainer's, and the place where a step that is not finite is found before the optimizer takes it."""
        grad_norm = super()._get_grad_norm(model, grad_norm)
        losses = [float(loss) for loss in self._losses]
        norm = float(grad_norm.full_tensor() if hasattr(grad_norm, "full_tensor") else grad_norm)
        # In float16 infinite gradients are how the loss scale is found: the scaler skips such steps by itself.
        finite = all(map(math.isfinite, losses)) and (self.args.fp16 or math.isfinite(norm))
        if self._sum([float(not finite)])[0]:
            self._non_finite(model, losses, norm)
        return grad_norm

    def _non_finite(self, model: nn.Module, losses: list[float], norm: float) -> None:
        step = self.state.global_step + 1
        report = Path(self.args.output_dir) / "non_finite" / f"step-{step}-rank-{self.args.process_index}.json"
        report.parent.mkdir(parents=True, exist_ok=True)
        shards = self.stream.maker.sources
        samples = [
            {"file": shards[source].shards[shard].name, "row": row, "token": token, "epoch": epoch}
            for info in self._infos
            for source, epoch, shard, row, token in info.samples.tolist()
        ]
        content = {"step": step, "losses": [str(loss) for loss in losses], "grad_norm": str(norm), "samples": samples}
        report.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        if self.totals.skipped_steps >= self.args.max_skipped_steps:
            raise NonFiniteLoss(
                f"step {step}: the loss or its gradient is not finite (gradient norm {norm}). {report} names the "
                "batch's documents. Lower learning_rate, go on from the checkpoint before with "
                "resume_from_checkpoint=true, or allow some such steps with max_skipped_steps."
            )
        self.totals.skipped_steps += 1
        if self.is_world_process_zero():
            self.warn(f"step {step} is skipped: its loss or gradient is not finite. {report} names its documents.")
        # Parameters without a gradient are left as they are.
        model.zero_grad(set_to_none=True)

    def _sum(self, values: list[float]) -> list[float]:
        """Sums over the ranks."""
        if self._group is None:
            return values
        together = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(together, group=self._group)
        return together.tolist()

    # How it is trained

    def create_optimizer(self, *args: Any) -> torch.optim.Optimizer:
        """As Trainer's; a second stage may keep the first one's moments."""
        created = self.optimizer is None
        optimizer = super().create_optimizer(*args)
        if created and self.args.init_optimizer == "kept" and self._resumed is None:
            self._keep_moments(optimizer, Path(str(self.args.init_from)))
        return optimizer

    @staticmethod
    def _keep_moments(optimizer: torch.optim.Optimizer, source: Path) -> None:
        """Takes the moments of a checkpoint's optimizer, but none of its settings."""
        if not (source / "optimizer.pt").is_file():
            source = (checkpoints.newest_sound(source, print) if source.is_dir() else None) or source
        try:
            state = torch.load(source / "optimizer.pt", map_location="cpu", weights_only=True)["state"]
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"init_optimizer: {source} holds no optimizer that fits ({_first_line(error)}). Name a run or one of "
                "its checkpoints by init_from, or set init_optimizer=fresh."
            ) from error
        shapes = {parameter: state["exp_avg"].shape for parameter, state in optimizer.state.items()}
        wrong = [parameter for parameter, shape in shapes.items() if parameter.shape != shape]
        if wrong:
            raise CheckpointError(
                f"init_optimizer: the optimizer of {source} belongs to another model or other decay_norms_and_biases."
            )

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Transformers' schedule of that name, over steps, tokens or time."""
        if self.lr_scheduler is None:
            args, schedule = self.args, self.schedule
            before = args.warmup_steps, args.lr_scheduler_kwargs
            args.warmup_steps = schedule.steps(args.warmup_steps)
            given: dict[str, Any] = dict(args.lr_scheduler_kwargs or {})  # type: ignore[arg-type]
            args.lr_scheduler_kwargs = {
                name: schedule.steps(value) if name in ("num_decay_steps", "num_stable_steps") else value
                for name, value in given.items()
            }
            try:
                schedule.follow(cast(LambdaLR, super().create_scheduler(schedule.length, optimizer)))
            finally:
                args.warmup_steps, args.lr_scheduler_kwargs = before
        return self.lr_scheduler

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Everything but norms and biases, unless the recipe says otherwise."""
        if self.args.decay_norms_and_biases:
            return [name for name, _ in model.named_parameters()]
        return super().get_decay_parameter_names(model)

    # What is seen of it

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As Trainer's; with a loss go the figures of the data, the speed and the memory."""
        if "loss" in logs:
            logs.update(self._figures())
        super().log(logs, start_time)

    def _figures(self) -> dict[str, float]:
        totals, before = self.totals, self._logged
        self._logged = Totals(*totals.values())
        seconds = max(1e-9, totals.seconds - before.seconds)
        rate = (totals.flops - before.flops) / seconds
        figures = {
            "tokens": int(totals.tokens),
            "padded_tokens": int(totals.padded_tokens),
            "documents": int(totals.documents),
            "packing_efficiency": round(totals.packing_efficiency, 4),
            "tokens_per_second": (totals.tokens - before.tokens) / seconds,
            "total_flos": totals.flops,
            "flops_per_second": rate,
            "peak_memory_gib": _peak_memory(),
        }
        peak = None
        if torch.cuda.is_available():
            dtype = "bfloat16" if self.args.bf16 else "float16" if self.args.fp16 else "float32"
            peak = peak_flops(torch.cuda.get_device_name(), dtype)
        if peak is not None:
            figures["mfu"] = rate / (peak * self.args.world_size)
        return figures

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Loss and accuracy on fixed masks, by all ranks together.

        Raises:
            ValueError: there is no held-out text.
        """
        if self.validation is None:
            raise ValueError("there is no held-out text: give validation_data.")
        # A model that is compiled for training would be compiled again for these few batches.
        with self.clock_stopped(), torch.compiler.set_stance("force_eager"):
            result = self.validation.measure(
                self.model, self.args.sequence_length, self.args.process_index, self.args.world_size, self._sum
            )
        metrics = {
            f"{metric_key_prefix}_loss": result.loss,
            f"{metric_key_prefix}_masked_accuracy": result.accuracy,
            f"{metric_key_prefix}_baseline_accuracy": self.validation.baseline_accuracy,
            f"{metric_key_prefix}_masked_tokens": result.masked_tokens,
        }
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def totals_now(self) -> Totals:
        """What was read so far; `resume` replaces it."""
        return self.totals

    @contextlib.contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """What happens within is no part of the time for training."""
        began = time.perf_counter()
        yield
        self._clock += time.perf_counter() - began

    # What is kept of it

    def resume(self, checkpoint: Path) -> None:
        """Takes the place in the data from a checkpoint; `train` is to be given the same one.

        Raises:
            CheckpointError: the checkpoint says nothing of the data, or other lanes, or has no optimizer.
        """
        files = sorted(checkpoint.glob("data-*.json"))
        if not files:
            raise CheckpointError(f"{checkpoint} says nothing of the data: it was not written by this command.")
        states = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        if states[0].get("weights_alone"):
            raise CheckpointError(
                f"{checkpoint} was written with save_only_model=true: it has no optimizer to go on with. Begin a new "
                "run from its weights by init_from."
            )
        self.stream.load_state_dict([state["stream"] for state in states])
        self.totals = Totals(**states[0]["totals"])
        self._logged = Totals(**states[0]["logged"])
        self.epoch = states[0]["epoch"]
        if len(states) == self.args.world_size:
            self._resumed = states[self.args.process_index]["logging"]
        else:
            # With another number of ranks each has the mean, which is what they log.
            mean = sum(state["logging"]["loss"] for state in states) / len(states)
            self._resumed = {**states[0]["logging"], "loss": mean}

    def is_complete(self, checkpoint: Path) -> bool:
        """Whether a checkpoint that was resumed is the end of the run; its weights are loaded then."""
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if self.schedule.progress(state.global_step) < 1.0:
            return False
        self._load_from_checkpoint(str(checkpoint))
        self.state = state
        return True

    def _data_state(self) -> dict[str, Any]:
        return {
            "ranks": self.args.world_size,
            "weights_alone": self.args.save_only_model,
            "epoch": self.epoch,
            "stream": self.stream.state_dict(),
            "totals": self.totals.as_dict(),
            "logged": self._logged.as_dict(),
            "logging": {
                "loss": float(self._tr_loss),
                "total_loss": self._total_loss_scalar,
                "step": self._globalstep_last_logged,
            },
        }

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._staging is not None else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes a checkpoint aside and renames it when it is complete."""
        with self.clock_stopped():
            self._write_checkpoint(model, trial)

    def _write_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run, step = Path(self.args.output_dir), self.state.global_step
        main = self.is_world_process_zero()
        final = checkpoints.folder_of(run, step)
        try:
            if main:
                checkpoints.clear_partial(run)
                checkpoints.staging(run).mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            self._staging = checkpoints.staging(run)
            partial = checkpoints.folder_of(self._staging, step)
            super()._save_checkpoint(model, trial)
            state = self._data_state()
            name = f"data-{self.args.process_index:05d}.json"
            (partial / name).write_text(json.dumps(state) + "\n", encoding="utf-8")
            self.accelerator.wait_for_everyone()
            if main:
                checkpoints.publish(partial, final)
                checkpoints.rotate(run, self.args.save_total_limit, final, self.args.keep_steps or ())
            self.accelerator.wait_for_everyone()
        except Exception as error:
            # Each library has its own error for a full disk; whatever it is, nothing half-written stays.
            before = checkpoints.checkpoints(run)
            intact = f"{before[-1]} is intact" if before else "there is none before it"
            raise CheckpointError(
                f"{final} could not be written ({_first_line(error)}); {intact}. Make room, or mend the disk, and go "
                "on with resume_from_checkpoint=true."
            ) from error
        finally:
            self._staging = None
            if main:
                shutil.rmtree(checkpoints.staging(run), ignore_errors=True)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """As Trainer's, with the recipe and what is known of the training in the place of pickled arguments."""
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            (folder / "training_args.bin").unlink(missing_ok=True)
            shutil.copy(Path(self.args.output_dir) / RECIPE, folder)
            stage = summary.stage_of(self.args, self.totals, self.state, self.schedule.max_steps)
            summary.write([*self.earlier_stages, stage], folder)


class _Batches:
    def __init__(self, stream: BatchStream, accumulation: int) -> None:
        self.stream, self.accumulation = stream, accumulation

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.stream.batches(self.accumulation)


class _Hooks(TrainerCallback):
    """What has to be done between Trainer's own lines."""

    def __init__(self, trainer: PretrainingTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Goes on with the mean loss where logging left off, at the intervals of this recipe."""
        trainer = self.trainer
        trainer._clock = time.perf_counter()
        if trainer._resumed is not None:
            # Trainer has loaded those of the recipe that wrote the checkpoint.
            state.compute_steps(args, state.max_steps)
            trainer._tr_loss += trainer._resumed["loss"]
            trainer._total_loss_scalar = trainer._resumed["total_loss"]
            trainer._globalstep_last_logged = trainer._resumed["step"]
            trainer._resumed = None
        elif 0 in (trainer.args.keep_steps or ()):
            trainer._save_checkpoint(trainer.model, None)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Says where the run is, and whether it is to end."""
        trainer = self.trainer
        state.epoch = float(trainer.epoch)
        state.num_input_tokens_seen = int(trainer.totals.tokens)
        # On every rank: all of them write a checkpoint together.
        if state.global_step in {*(trainer.args.publish_steps or ()), *(trainer.args.keep_steps or ())}:
            control.should_save = True
        finished = trainer.schedule.progress(state.global_step) >= 1.0
        # Without other ranks to agree with, a signal need not wait for the next step.
        asked = trainer._asked_to_stop or (args.world_size == 1 and trainer.stop.received is not None)
        if finished or asked:
            control.should_training_stop = True
            control.should_save = control.should_save or asked or args.save_strategy != "no"


def _peak_memory() -> float:
    """Of this process so far, in GiB: on the GPU where there is one, otherwise resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

"""The keys of a pre-training recipe: those of transformers' TrainingArguments and our own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, field, replace
from typing import Any, Literal

import torch
from accelerate.utils import get_int_from_env
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from llm_jp_modernbert.core.errors import UsageError

from .schedule import STEP_COUNTS, Schedule

Data = str | list[str | dict[str, Any]] | dict[str, Any]

SPECIAL_TOKENS_PER_PIECE = 2
"""CLS before and SEP after every document or piece of one."""

MUON, STABLE_ADAMW = OWN_OPTIMIZERS = ("muon", "stable_adamw")
"""Values of `optim` that are not transformers': see `training.optimizers`."""

ATTENTION_LAYERS = {"global": "full_attention", "local": "sliding_attention"}
"""Keys of a mapping in `attention`, and the layer types that they name in the configuration."""

# Trainer needs a number of steps. If tokens or time end the run, they do so long before this one.
_NO_LIMIT = 10**12


@dataclass
class LaunchedArguments(TrainingArguments):
    """`TrainingArguments` with one device per process, as `accelerate launch` and torchrun start processes."""

    def __post_init__(self) -> None:
        launched = get_int_from_env(["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"], 1)
        rank = get_int_from_env(["RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"], -1)
        # accelerate's launcher for CPUs sets these two if several processes are requested, but starts one.
        if rank < 0 and (launched > 1 or {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= os.environ.keys()):
            raise UsageError(
                "Several processes were requested, but only this one was started (RANK is not set). Use torchrun, or "
                "accelerate launch with cpu-2.yaml; for one process, unset WORLD_SIZE and MASTER_ADDR."
            )
        if "LOCAL_RANK" in os.environ and not torch.accelerator.is_available():
            # Only with this variable or use_cpu does accelerate connect processes on CPUs.
            os.environ.setdefault("ACCELERATE_USE_CPU", "true")
        super().__post_init__()
        # These keys decide: transformers would use the launcher's precision if they set none.
        self.mixed_precision = "bf16" if self.bf16 else "fp16" if self.fp16 else "no"
        if launched != self.world_size:
            raise UsageError(
                f"{launched} processes were launched, but accelerate connects {self.world_size}: they would be "
                "separate runs in one output_dir. Set use_cpu=true to train on CPUs, or launch one process per GPU."
            )

    @property
    def n_gpu(self) -> int:
        """At most 1: with more, Trainer would split packed rows with DataParallel."""
        return min(1, super().n_gpu)

    @property
    def device(self) -> torch.device:
        """Device of this process. A CPU has no index: torch rejects `cpu:0` when transformers 5.17 loads the
        optimizer."""
        device = super().device
        return torch.device("cpu") if device.type == "cpu" else device


@dataclass
class PretrainingArguments(LaunchedArguments):
    """A pre-training recipe. It is frozen: assigning to a key after construction raises `FrozenInstanceError`.

    Keys of transformers' `TrainingArguments` keep their meaning. `to_training_arguments` makes the arguments that
    Trainer receives.

    `optim` also accepts `muon` and `stable_adamw`, see `training.optimizers`.

    Attributes:
        stage: name of the training stage, used in the log and in revision names of checkpoints.
        model: name of a shape (`base`, `small`, `nano`), or a mapping of configuration settings with an optional
            `shape` that they override. With `init_from`: settings to change in that model's configuration.
        attention: attention backend such as `sdpa`, or a mapping from `global` and `local` to the backends of these
            layers; by default chosen by device and precision.
        init_from: local path or `ORG/NAME[@REVISION]` of the model whose weights training starts from.
        init_optimizer: `fresh` for a new optimizer state, `kept` to load the state saved in `init_from`.
        init_embeddings: `random`, or `counted` to initialize the token embeddings of a new model from co-occurrence
            counts of the training data, see `data.cooccurrence`. Helps small models learn faster at the start.
        tokenizer: local path, repository, tokenizer.json or SentencePiece `.model`; by default that of `init_from`.
        train_data: files, directories, glob patterns, tokenized corpora or Hub datasets. An entry can be a mapping
            of `path` and any of `weight`, `name`, `split`, `revision`, `text_column`, `min_characters` and
            `max_characters`.
        validation_data: held-out text in the same form, without weights.
        exclude_data: files of documents that are not trained on, compared by their text, such as held-out text.
        text_column: JSON key or column that holds the text.
        normalization: Unicode normalization form applied to all text: `none`, `NFC` or `NFKC`.
        strict: whether an unreadable row raises an error; if false, such rows are skipped and counted.
        sequence_length: maximum number of tokens per row, special tokens included.
        long_documents: `cut` splits a document that does not fit into consecutive pieces; `truncate` drops the rest.
        packing: `best_fit` packs several documents into a row; `none` puts one document in each row.
        shuffle: whether to shuffle documents, with a different order in every epoch.
        block_characters: number of characters within which documents are shuffled and packed.
        interleave: number of files read in parallel.
        data_lanes: number of block sequences distributed over the ranks. If text is tokenized during training, use
            the number of ranks or a multiple, so that each rank tokenizes only its share. Changes the data order.
        block_index: file with the positions of the blocks in `train_data`, written by `index-blocks`. Each data
            process then reads only the documents of its own blocks, instead of all. Does not change the data order.
        balance_attention: whether to order the rows of a block such that the ranks have about equal numbers of
            attention pairs in a step: they wait for the slowest. For long rows on many GPUs; requires `data_lanes` to
            be a multiple of the number of ranks. Changes the data order.
        mlm_probability: fraction of tokens to predict.
        final_mlm_probability: the same fraction during learning-rate decay.
        mask_share: fraction of the predicted tokens that are replaced by the mask token.
        random_share: fraction of the predicted tokens that are replaced by a random token; the rest stay unchanged.
        whole_word: whether to mask whole words; requires a segmenter (`pip install fugashi unidic-lite`).
        tokens_per_batch: maximum number of tokens in a batch of one device; alternative to
            `per_device_train_batch_size`, which counts rows.
        batch_warmup_steps: number of steps over which the batch of a device grows from one row to its full size.
        length_warmup_steps: number of steps in which documents are divided into pieces that do not attend to each
            other. The longest piece grows from `initial_length` to `sequence_length` by doubling; rows and masks are
            unchanged.
        initial_length: maximum number of tokens of a piece at the beginning of the length warm-up.
        theta_warmup_steps: number of steps over which the RoPE theta of the global layers moves geometrically from
            that of `init_from` to `model.global_rope_theta`.
        max_tokens: maximum number of training tokens over all ranks.
        max_minutes: maximum training time in minutes. The schedule follows whichever limit is reached first.
        decay_norms_and_biases: whether to apply weight decay to norms and biases as well.
        max_skipped_steps: number of steps with a non-finite loss that are skipped before training stops with an error.
        max_validation_tokens: maximum number of held-out tokens.
        keep_steps: steps whose checkpoints are saved regardless of `save_steps` and never removed by
            `save_total_limit`; step 0 is the untrained model.
        publish_steps: with `push_to_hub`, steps whose checkpoints are pushed as revisions; None for all checkpoints.
        probe_steps: steps at which probes measure the model; None for all checkpoints.
    """

    output_dir: str = ""
    adam_beta2: float = 0.98
    adam_epsilon: float = 1e-6
    lr_scheduler_kwargs: dict[str, Any] | None = None
    logging_steps: float = 10
    logging_nan_inf_filter: bool = False
    remove_unused_columns: bool = False
    disable_tqdm: bool | None = True
    ignore_data_skip: bool = True
    # Every parameter has a gradient in every batch; searching for unused ones costs a pass over the graph.
    ddp_find_unused_parameters: bool | None = False

    stage: str = "stage1"
    model: str | dict[str, Any] | None = None
    attention: str | dict[str, str] | None = None
    init_from: str | None = None
    init_optimizer: Literal["fresh", "kept"] = "fresh"
    init_embeddings: Literal["random", "counted"] = "random"
    tokenizer: str | None = None
    train_data: Data | None = None
    validation_data: Data | None = None
    exclude_data: str | list[str] | None = None
    text_column: str = "text"
    normalization: Literal["none", "NFC", "NFKC"] = "none"
    strict: bool = False
    sequence_length: int = 1024
    long_documents: Literal["cut", "truncate"] = "cut"
    packing: Literal["best_fit", "none"] = "best_fit"
    shuffle: bool = True
    block_characters: int = 4_000_000
    interleave: int = 8
    data_lanes: int = 1
    block_index: str | None = None
    balance_attention: bool = False
    mlm_probability: float = 0.3
    final_mlm_probability: float | None = None
    mask_share: float = 0.8
    random_share: float = 0.1
    whole_word: bool = False
    tokens_per_batch: int | None = None
    batch_warmup_steps: int = 0
    length_warmup_steps: int = 0
    initial_length: int = 128
    theta_warmup_steps: int = 0
    max_tokens: int | None = None
    max_minutes: float | None = None
    decay_norms_and_biases: bool = False
    max_skipped_steps: int = 0
    max_validation_tokens: int = 100_000
    keep_steps: list[int] | None = None
    publish_steps: list[int] | None = None
    probe_steps: list[int] | None = None
    resume_from_checkpoint: str | bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "path of a checkpoint, or true for the latest one"}
    )

    def __post_init__(self) -> None:
        own = next((name for name in OWN_OPTIMIZERS if name == self.optim), None)
        if own is not None:
            # transformers rejects names that it does not know.
            self.optim = OptimizerNames.ADAMW_TORCH
        super().__post_init__()
        self.optim = own or self.optim
        self._frozen = True

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dataclass_fields__ and self.__dict__.get("_frozen"):
            raise FrozenInstanceError(f"cannot assign to {name}: recipes are frozen, use dataclasses.replace")
        super().__setattr__(name, value)

    @property
    def attn_implementation(self) -> str | dict[str, str] | None:
        """`attention` in the form that models accept."""
        if not isinstance(self.attention, dict):
            return self.attention
        return {ATTENTION_LAYERS[kind]: name for kind, name in self.attention.items()}

    @property
    def rows_per_device_batch(self) -> int:
        """Number of rows in a full batch of one device."""
        if self.tokens_per_batch is None:
            return self.per_device_train_batch_size
        return self.tokens_per_batch // self.sequence_length

    @property
    def rows_per_step(self) -> int:
        """Number of rows in a full optimizer step, over all devices."""
        return self.rows_per_device_batch * self.gradient_accumulation_steps * self.world_size

    def schedule(self, tokens: Callable[[], int] = lambda: 0, seconds: Callable[[], float] = lambda: 0.0) -> Schedule:
        """The schedule of the run; see `Schedule` for the arguments."""
        return Schedule(
            self.max_steps if self.max_steps > 0 else None,
            self.max_tokens,
            None if self.max_minutes is None else 60 * self.max_minutes,
            tokens,
            seconds,
        )


def to_training_arguments(recipe: PretrainingArguments) -> PretrainingArguments:
    """Converts a recipe into the arguments of transformers' Trainer.

    Shares of the run become numbers of steps, and features that this package implements itself are disabled:
    pushing checkpoints, removing old ones, and compiling (layers are compiled one by one, not the whole model).
    """
    schedule = recipe.schedule()
    settings = dict(recipe.lr_scheduler_kwargs or {})
    for name in STEP_COUNTS:
        if name in settings:
            settings[name] = schedule.steps(settings[name])
    return replace(
        recipe,
        max_steps=schedule.max_steps or _NO_LIMIT,
        warmup_steps=schedule.steps(recipe.warmup_steps),
        lr_scheduler_kwargs=settings or None,
        push_to_hub=False,
        save_total_limit=None,
        torch_compile=False,
        torch_compile_backend=None,
        torch_compile_mode=None,
    )

"""Any encoder, by name, in the forms that evaluations need; each form is loaded when it is first asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.loading import (
    check_model_directory,
    load_masked_lm,
    load_tokenizer,
    loading_errors,
    split_revision,
    usable_device,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


# What sentence-transformers reads beside the model.
_EMBEDDING_FILES = ("modules.json", "1_Pooling/config.json", "config_sentence_transformers.json")


@dataclass(frozen=True)
class ModelName:
    """What is measured, and how it computes.

    Attributes:
        name: directory or repository.
        requested: branch, tag or commit of the repository.
        device: such as `cpu` or `cuda`; None for a GPU where there is one.
        dtype: `auto`, `float32`, `bfloat16` or `float16`; `auto` is bfloat16 on a GPU that has it, else float32.
        tokens_per_batch: how many tokens are read at once; None for 16,384 on a GPU, and for 4,096 elsewhere, where
            more do not fit into caches.
    """

    name: str
    requested: str | None = None
    device: str | None = None
    dtype: str = "auto"
    tokens_per_batch: int | None = None


class EvaluatedModel:
    """A model under evaluation.

    Args:
        which: its name and how it computes.

    Raises:
        UsageError: two different revisions are named, or a path that is no model, or a device that is not there.
    """

    def __init__(self, which: ModelName) -> None:
        self.which = which
        self.name, self.requested = split_revision(which.name, which.requested)
        check_model_directory(self.name)
        if which.device is not None:
            usable_device(which.device)

    @property
    def label(self) -> str:
        """What results call it: its name, with the revision that was asked for."""
        return self.name if self.requested is None else f"{self.name}@{self.requested}"

    @cached_property
    def revision(self) -> str:
        """The commit of a repository, or `sha256:…` over the weights and the configuration of a directory."""
        folder = Path(self.name)
        if folder.is_dir():
            return _fingerprint(folder)
        from transformers.utils.hub import cached_file, extract_commit_hash

        try:
            config = cached_file(self.name, "config.json", revision=self.requested)
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"{self.name}: no such directory, and no repository to be had. {reason}") from error
        return extract_commit_hash(config, None) or self.requested or "main"

    @cached_property
    def embedding_files(self) -> str | None:
        """`sha256:…` over what says how a directory's embeddings are pooled and which prompts they have; None where
        there is no such file, or a commit stands for it."""
        folder = Path(self.name)
        found = [folder / name for name in _EMBEDDING_FILES if (folder / name).is_file()]
        return _hash(found) if found else None

    @cached_property
    def dtype(self) -> str:
        """Numbers that inference computes with."""
        if self.which.dtype != "auto":
            return self.which.dtype
        import torch

        return "bfloat16" if self._on_gpu and torch.cuda.is_bf16_supported() else "float32"

    @property
    def tokens_per_batch(self) -> int:
        """How many tokens are read at once."""
        return self.which.tokens_per_batch or (16_384 if self._on_gpu else 4_096)

    @cached_property
    def _on_gpu(self) -> bool:
        import torch

        return (self.which.device is None or self.which.device.startswith("cuda")) and torch.cuda.is_available()

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer, the llm-jp one in its encoder form.

        Raises:
            UsageError: it is another model's, with more tokens than this one has.
        """
        tokenizer = load_tokenizer(self.name, self.requested)
        tokens, rows = len(tokenizer), getattr(self._config, "vocab_size", None)
        if rows is not None and tokens > rows:
            raise UsageError(
                f"{self.name}: its tokenizer has {tokens:,} tokens, but the model a vocabulary of {rows:,}. Put the "
                "model's own tokenizer beside it."
            )
        return tokenizer

    @cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(self.name, revision=self.requested)
        except loading_errors() as error:
            raise UsageError(f"{self.name}: cannot be loaded. {str(error).splitlines()[0]}") from error

    @cached_property
    def masked_lm(self) -> PreTrainedModel:
        """It with its vocabulary head, for inference.

        Raises:
            UsageError: it has none, or the tokenizer has no mask token.
        """
        if self.tokenizer.mask_token_id is None:
            raise UsageError(
                f"{self.name}: its tokenizer has no mask token, so it is no masked language model. "
                "Leave out the tasks fill-mask and pseudo-perplexity."
            )
        return load_masked_lm(self.name, self.requested, self.dtype, self.which.device)

    def has_file(self, name: str) -> bool:
        """Whether its directory or repository holds a file."""
        folder = Path(self.name)
        if folder.is_dir():
            return (folder / name).is_file()
        from transformers.utils.hub import has_file

        return bool(has_file(self.name, name, revision=self.requested))

    @property
    def max_length(self) -> int:
        """Tokens that it reads at most, special ones included."""
        config = self._config
        positions: int = getattr(config, "max_position_embeddings", None) or 10**9
        # RoBERTa's positions begin behind the padding id.
        if config.model_type in ("roberta", "xlm-roberta", "camembert", "luke"):
            positions -= (config.pad_token_id or 0) + 1
        return min(positions, self.tokenizer.model_max_length)


def _fingerprint(folder: Path) -> str:
    # Of a model that has its weights in both forms, transformers reads the first.
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not weights:
        raise UsageError(f"{folder} holds no weights (*.safetensors or *.bin), so it is no model.")
    return _hash(path for path in (folder / "config.json", folder / "tokenizer.json", *weights) if path.is_file())


def _hash(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            for part in iter(lambda: file.read(1 << 22), b""):
                digest.update(part)
    return f"sha256:{digest.hexdigest()[:16]}"

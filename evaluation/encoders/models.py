"""Any encoder, by name; each form that evaluations need is loaded on first use."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.errors import UsageError, first_line
from llm_jp_modernbert.core.references import ModelReference
from llm_jp_modernbert.inference.loading import (
    check_vocabulary,
    context_length,
    hash_of,
    load_masked_lm,
    load_tokenizer,
    loading_errors,
    model_revision,
    usable_device,
)
from llm_jp_modernbert.inference.retrieval.loading import load_retrieval_model, type_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


BM25 = "bm25"
"""Name of the model without weights that tasks of retrieval measure."""

# Read by sentence-transformers in addition to the model. The first ones come first in the hash, which results contain.
_EMBEDDING_FILES = ("modules.json", "1_Pooling/config.json", "config_sentence_transformers.json")
_FURTHER_EMBEDDING_FILES = ("sentence_bert_config.json", "[0-9]*_*/**/*")


@dataclass(frozen=True)
class ModelName:
    """A model and how it computes.

    Attributes:
        name: directory or repository.
        requested: branch, tag or commit of the repository.
        device: for example `cpu` or `cuda`; None for a GPU if available.
        dtype: `auto`, `float32`, `bfloat16` or `float16`; `auto` is bfloat16 on a GPU that supports it, else float32.
        tokens_per_batch: maximum tokens of a batch; None for 16,384 on a GPU, and 4,096 on a CPU, whose caches hold
            no more.
        label: name in results; empty for the name, with the requested revision if any.
    """

    name: str
    requested: str | None = None
    device: str | None = None
    dtype: str = "auto"
    tokens_per_batch: int | None = None
    label: str = ""

    @classmethod
    def parse(cls, text: str, *settings: Any) -> ModelName:
        """Reads `MODEL` or `LABEL=MODEL`; the name of an existing directory may contain `=`.

        Args:
            text: as given by the user.
            settings: the attributes after the name.

        Raises:
            UsageError: the label or the model is empty.
        """
        label, equals, name = (part.strip() for part in text.partition("="))
        if not equals or Path(text).is_dir():
            return cls(text, *settings)
        if not label or not name:
            raise UsageError(f"{text}: expected NAME=MODEL, or a model alone.")
        return replace(cls(name, *settings), label=label)


class EvaluatedModel:
    """A model under evaluation.

    Args:
        which: its name and how it computes.

    Attributes:
        label: name in results.
        is_bm25: whether it is BM25, which has no weights.

    Raises:
        UsageError: two different revisions, a path that is not a model, or an unavailable device.
    """

    def __init__(self, which: ModelName) -> None:
        self.which = which
        self._reference = ModelReference.parse(which.name, which.requested)
        self.is_bm25 = which.name == BM25 and not self._reference.is_local
        if not self.is_bm25:
            self._reference.check_model()
        self.name, self.requested = self._reference.name, self._reference.revision
        self.label = which.label or str(self._reference)
        if which.device is not None:
            usable_device(which.device)

    @cached_property
    def revision(self) -> str:
        """The commit of a repository, or `sha256:…` over the weights and configuration of a directory.

        For BM25, the versions of its packages.
        """
        if self.is_bm25:
            from llm_jp_modernbert.inference.retrieval.bm25 import BM25

            return BM25().revision
        return model_revision(self._reference)

    @cached_property
    def type(self) -> str:
        """`BM25`, or the class of sentence-transformers that loads the model.

        Other checkpoints are a `SentenceTransformer`, unless they give one score for a text.
        """
        if self.is_bm25:
            return "BM25"
        known = type_of(self._reference)
        is_reranker = known == "CrossEncoder" and self._config.num_labels == 1
        return known if is_reranker or known != "CrossEncoder" else "SentenceTransformer"

    def load(self) -> Any:
        """The model as its class of sentence-transformers.

        Raises:
            UsageError: it cannot be loaded.
        """
        return load_retrieval_model(str(self._reference), self.which.device, self.dtype)

    @cached_property
    def embedding_files(self) -> str | None:
        """`sha256:…` over the modules and prompts of a directory; None without such files or for a commit."""
        folder = self._reference.path
        if not self._reference.is_local or not (folder / "modules.json").is_file():
            return None
        further = sorted(path for pattern in _FURTHER_EMBEDDING_FILES for path in folder.glob(pattern))
        files = dict.fromkeys([*(folder / name for name in _EMBEDDING_FILES), *further])
        return hash_of(path for path in files if path.is_file())

    @cached_property
    def dtype(self) -> str:
        """Data type of inference."""
        if self.which.dtype != "auto":
            return self.which.dtype
        import torch

        return "bfloat16" if self._on_gpu and torch.cuda.is_bf16_supported() else "float32"

    @property
    def tokens_per_batch(self) -> int:
        """Maximum tokens of a batch."""
        return self.which.tokens_per_batch or (16_384 if self._on_gpu else 4_096)

    @cached_property
    def _on_gpu(self) -> bool:
        import torch

        return (self.which.device is None or self.which.device.startswith("cuda")) and torch.cuda.is_available()

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer; that of an llm-jp model in its encoder form.

        Raises:
            UsageError: it has more tokens than the model's vocabulary.
        """
        tokenizer = load_tokenizer(self.name, self.requested)
        check_vocabulary(self._config, tokenizer)
        return tokenizer

    @cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(self.name, revision=self.requested)
        except loading_errors() as error:
            raise UsageError(f"{self.name}: cannot be loaded. {first_line(error)}") from error

    @cached_property
    def masked_lm(self) -> PreTrainedModel:
        """The masked language model, for inference.

        Raises:
            UsageError: the model has no vocabulary head, or the tokenizer no mask token.
        """
        if self.tokenizer.mask_token_id is None:
            raise UsageError(
                f"{self.name}: its tokenizer has no mask token, so it is not a masked language model. "
                "Skip the tasks fill-mask and pseudo-perplexity."
            )
        return load_masked_lm(self.name, self.requested, self.dtype, self.which.device)

    def has_file(self, name: str) -> bool:
        """Whether the directory or repository contains a file."""
        if self._reference.is_local:
            return (self._reference.path / name).is_file()
        from transformers.utils.hub import has_file

        return bool(has_file(self.name, name, revision=self.requested))

    @cached_property
    def max_length(self) -> int:
        """Maximum number of input tokens, including special tokens."""
        return context_length(self._config, self.tokenizer)

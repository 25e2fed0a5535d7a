"""Loads models and tokenizers from a local path, a repository, or a repository at a revision."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.errors import UsageError, first_line
from llm_jp_modernbert.core.hub_errors import limit_waiting
from llm_jp_modernbert.core.references import ModelReference

from .heads import HEADS, MASKED_LM, Head, head_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OUR_MODEL_TYPES = ("modernbert", "llm-jp-modernbert")
"""Model types that are loaded as this package's classes."""


def checkpoint_folder(name: str) -> Path:
    """The local folder of a checkpoint (local path, repository, or `ORG/NAME@REVISION`), downloaded if necessary.

    Raises:
        UsageError: the path is not a model, or the repository cannot be downloaded.
    """
    reference = _parse(name)
    reference.check_model()
    if reference.is_local:
        return reference.path
    from huggingface_hub import snapshot_download

    patterns = ["*.safetensors", "*.json", "*.yaml"]
    try:
        folder = snapshot_download(reference.name, revision=reference.revision, allow_patterns=patterns)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{name}: no such directory, and the repository cannot be downloaded. {first_line(error)}"
        ) from error
    return Path(folder)


def model_revision(reference: ModelReference) -> str:
    """The commit of a repository, or `sha256:…` over the weights and configuration of a directory.

    Raises:
        UsageError: the directory holds no weights, or the repository is not available.
    """
    if reference.is_local:
        folder = reference.path
        # If both formats exist, transformers reads safetensors.
        weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
        if not weights:
            raise UsageError(f"{folder} holds no weights (*.safetensors or *.bin), so it is not a model.")
        files = (folder / "config.json", folder / "tokenizer.json", *weights)
        return hash_of(path for path in files if path.is_file())
    from transformers.utils.hub import cached_file, extract_commit_hash

    try:
        config = cached_file(reference.name, "config.json", revision=reference.revision)
    except OSError as error:
        raise UsageError(
            f"{reference.name}: neither a directory nor an available repository. {first_line(error)}"
        ) from error
    return extract_commit_hash(config, None) or reference.revision or "main"


def hash_of(paths: Iterable[Path]) -> str:
    """`sha256:…` over the names and contents of files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            for part in iter(lambda: file.read(1 << 22), b""):
                digest.update(part)
    return f"sha256:{digest.hexdigest()[:16]}"


def load_masked_lm(
    name: str, revision: str | None = None, dtype: str = "auto", device: str | None = None
) -> PreTrainedModel:
    """Loads a masked language model for inference; see `load_model`."""
    return load_model(name, MASKED_LM, revision, dtype, device)


def load_model(
    name: str,
    head: Head | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
) -> PreTrainedModel:
    """Loads a model with a head for inference.

    `modernbert` and `llm-jp-modernbert` checkpoints are loaded as this package's class, others through transformers'
    Auto class.

    Args:
        name: local path, repository, or `ORG/NAME@REVISION`.
        head: head of the model; by default that named in its config.json.
        revision: branch, tag or commit of the repository, if the name does not have one.
        dtype: `"auto"` (as saved), `"float32"`, `"bfloat16"` or `"float16"`.
        device: such as `"cpu"` or `"cuda"`; by default the accelerator if there is one.

    Raises:
        UsageError: the model is missing, its head is unknown or has no weights, or two different revisions are given.

    Example:
        >>> load_model("ORG/CLASSIFIER").config.id2label
        {0: 'negative', 1: 'positive'}
    """
    import torch
    import transformers

    from llm_jp_modernbert.modeling import modeling_llm_jp_modernbert

    reference = _parse(name, revision)
    reference.check_model()
    device = usable_device(device)
    kind = "model" if head is None else head.name
    try:
        config = transformers.AutoConfig.from_pretrained(reference.name, revision=reference.revision)
        head = head or head_of(config.to_dict())
        model_class: Any = getattr(transformers, head.auto_class)
        if config.model_type in OUR_MODEL_TYPES:
            model_class = getattr(modeling_llm_jp_modernbert, f"LlmJpModernBert{head.suffix}")
        model, info = model_class.from_pretrained(
            reference.name,
            revision=reference.revision,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            output_loading_info=True,
        )
    except UsageError as error:
        raise UsageError(f"{reference}: {error}") from error
    except loading_errors() as error:
        raise UsageError(f"{reference}: cannot be loaded as a {kind}. {first_line(error)}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise UsageError(
            f"{reference}: the checkpoint lacks {len(missing)} weights of a {head.name} "
            f"({', '.join(missing[:3])}{', …' if missing[3:] else ''}). Give a checkpoint that has this head."
        )
    # Heads of other types can have weights of the same names and sizes.
    saved = (getattr(config, "architectures", None) or [""])[0]
    if any(saved.endswith(other.suffix) for other in HEADS if other != head):
        raise UsageError(f"{reference}: is a {saved}, not a {head.name}. Give a checkpoint that has this head.")
    return model.eval().to(device)


def _parse(name: str, revision: str | None = None) -> ModelReference:
    reference = ModelReference.parse(name, revision)
    if not reference.is_local:
        limit_waiting()
    return reference


def context_length(config: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """The maximum number of tokens that a model reads, special tokens included.

    Args:
        config: the model's configuration.
        tokenizer: the model's tokenizer, whose `model_max_length` may be smaller.
    """
    positions: int | None = getattr(config, "max_position_embeddings", None)
    if positions is None:
        return tokenizer.model_max_length
    return min(positions - _unused_positions(config), tokenizer.model_max_length)


def _unused_positions(config: Any) -> int:
    """The positions up to the padding id, which RoBERTa and its relatives do not use for tokens."""
    import torch
    from transformers import AutoModel

    if config.model_type in OUR_MODEL_TYPES:
        return 0
    try:
        with torch.device("meta"):
            model = AutoModel.from_config(config)
    except loading_errors():
        return 0
    # Only these models give their table of positions a padding id.
    tables = [module for name, module in model.named_modules() if name.endswith("position_embeddings")]
    padding = [getattr(table, "padding_idx", None) for table in tables]
    return max((place + 1 for place in padding if place is not None), default=0)


def check_vocabulary(config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises `UsageError` if a tokenizer has more tokens than a model; a model's vocabulary may be padded."""
    tokens, rows = len(tokenizer), getattr(config, "vocab_size", None)
    if rows is not None and tokens > rows:
        raise UsageError(
            f"{config.name_or_path}: its tokenizer has {tokens:,} tokens, but the model a vocabulary of {rows:,}. "
            "Save the model's own tokenizer in its directory."
        )


def loading_errors() -> tuple[type[Exception], ...]:
    """The errors that transformers raises for a model that cannot be loaded."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    # RuntimeError: weights have other shapes than the configuration. UnpicklingError: torch refuses unsafe pickles.
    known = (OSError, EOFError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError)
    # Values of another type or range in a configuration.
    return *known, StrictDataclassError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError


def load_tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a model. For llm-jp models this is `LlmJpTokenizer`, which handles text around masks.

    Args:
        name: local path, repository, `ORG/NAME@REVISION`, or a SentencePiece `.model` file of llm-jp-tokenizer.
        revision: branch, tag or commit of the repository, if the name does not have one.

    Raises:
        UsageError: the tokenizer is missing or damaged, or two different revisions are given.
    """
    from transformers import AutoTokenizer

    from llm_jp_modernbert.tokenization import LlmJpTokenizer, build_tokenizer

    reference = _parse(name, revision)
    if reference.path.is_file():
        return build_tokenizer(reference.name)
    try:
        tokenizer: PreTrainedTokenizerBase = LlmJpTokenizer.from_pretrained(
            reference.name, revision=reference.revision
        )
    except ValueError as not_llm_jp:
        try:
            tokenizer = AutoTokenizer.from_pretrained(reference.name, revision=reference.revision)
            if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
                raise ValueError("without tokenizer files, transformers makes an empty tokenizer")
        except Exception:  # files with unexpected types may raise anything
            raise UsageError(
                f"{reference}: no tokenizer found. {first_line(not_llm_jp)} Add its tokenizer.json, or name one with "
                "--tokenizer where a command has this option."
            ) from not_llm_jp
    if not isinstance(tokenizer.model_max_length, (int, float)):
        raise UsageError(f"{reference}: model_max_length in its tokenizer_config.json must be a number.")
    return tokenizer


def usable_device(device: str | None) -> str:
    """Returns a device, by default the accelerator if there is one; raises `UsageError` if it is not available."""
    import torch

    if device is None:
        # CUDA and ROCm, Apple's MPS or Intel's XPU.
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return "cpu" if accelerator is None else accelerator.type
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"--device {device}: not available here. {first_line(error)}") from error
    return device

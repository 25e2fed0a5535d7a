"""Masked language models and their tokenizers by name: a directory, a repository, or a repository at a revision."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Checkpoints of these types are loaded as this package's classes.
OUR_MODEL_TYPES = ("modernbert", "llm-jp-modernbert")

_CHECKPOINT_FILES = ["*.safetensors", "*.json", "*.yaml"]


def split_revision(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """`ORG/NAME@REVISION` as `(ORG/NAME, REVISION)`; a path that exists stays whole, but for `~`.

    Args:
        name: a directory, or a repository with or without a revision.
        revision: the revision, where it is given apart from the name.

    Raises:
        UsageError: two different revisions, or one of a path on this machine.
    """
    name = os.path.expanduser(name)
    if not os.path.exists(name) and "@" in name:
        repository, _, of_name = name.rpartition("@")
        if revision not in (None, of_name):
            raise UsageError(f"{name} names revision {of_name!r}, but --revision says {revision!r}. Give one of them.")
        name, revision = repository, of_name
    if revision is not None and os.path.exists(name):
        raise UsageError(f"{name} lies on this machine, where there is no revision {revision!r}. Name a repository.")
    return name, revision


def checkpoint_folder(name: str) -> Path:
    """The folder of a checkpoint, downloaded where it is a repository's.

    Args:
        name: a directory, a repository, or a repository at a revision (`ORG/NAME@REVISION`).

    Raises:
        UsageError: no such directory, and no repository to be had.
    """
    check_model_directory(split_revision(name)[0])
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    repository, revision = split_revision(name)
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=_CHECKPOINT_FILES))
    except (OSError, ValueError) as error:
        raise UsageError(f"{name}: no such directory, and no repository to be had. {_line(error)}") from error


def load_masked_lm(
    name: str, revision: str | None = None, dtype: str = "auto", device: str | None = None
) -> PreTrainedModel:
    """Loads a model with its vocabulary head, ready for inference.

    A `modernbert` or `llm-jp-modernbert` checkpoint becomes this package's class, any other what transformers makes
    of it.

    Args:
        name: a directory, a repository, or a repository at a revision (`ORG/NAME@REVISION`).
        revision: branch, tag or commit of a repository, where the name does not say it.
        dtype: `"auto"` (as saved), `"float32"`, `"bfloat16"` or `"float16"`.
        device: such as `"cpu"` or `"cuda"`; by default a GPU where there is one.

    Raises:
        UsageError: no such model, one without such a head, or two different revisions.
    """
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM

    from llm_jp_modernbert.modeling.modeling_llm_jp_modernbert import LlmJpModernBertForMaskedLM

    name, revision = split_revision(name, revision)
    check_model_directory(name)
    place = usable_device(device)
    try:
        config = AutoConfig.from_pretrained(name, revision=revision)
        ours = config.model_type in OUR_MODEL_TYPES
        chosen: Any = LlmJpModernBertForMaskedLM if ours else AutoModelForMaskedLM
        kind = dtype if dtype == "auto" else getattr(torch, dtype)
        model, report = chosen.from_pretrained(name, revision=revision, dtype=kind, output_loading_info=True)
    except loading_errors() as error:
        raise UsageError(
            f"{_named(name, revision)}: cannot be loaded as a masked language model. {_line(error)}"
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise UsageError(
            f"{_named(name, revision)}: the checkpoint lacks {len(missing)} weights of a masked language model "
            f"({', '.join(missing[:3])}{', …' if missing[3:] else ''}). Give a checkpoint with a vocabulary head."
        )
    return model.eval().to(place)


def loading_errors() -> tuple[type[Exception], ...]:
    """What transformers raises for a model that cannot be loaded; pickled weights that would run code are among them:
    torch reads tensors alone (`weights_only=True`)."""
    import pickle

    from safetensors import SafetensorError

    # transformers raises a RuntimeError for weights of other shapes than the configuration says.
    return OSError, ValueError, KeyError, RuntimeError, SafetensorError, pickle.UnpicklingError


def load_tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Loads a model's tokenizer; that of an llm-jp model in its encoder form, with text around masks read right.

    Args:
        name: a directory or repository with a tokenizer, a repository at a revision (`ORG/NAME@REVISION`), or a
            SentencePiece `.model` file of llm-jp-tokenizer.
        revision: branch, tag or commit of a repository, where the name does not say it.

    Raises:
        UsageError: there is no tokenizer, or two different revisions.
    """
    from transformers import AutoTokenizer

    from llm_jp_modernbert.tokenization import LlmJpTokenizer, build_tokenizer

    name, revision = split_revision(name, revision)
    if os.path.isfile(name):
        return build_tokenizer(name)
    try:
        return LlmJpTokenizer.from_pretrained(name, revision=revision)
    except ValueError as not_llm_jp:
        # Another family's tokenizer is as it is.
        try:
            return AutoTokenizer.from_pretrained(name, revision=revision)
        except (OSError, ValueError, KeyError, AttributeError):
            raise UsageError(
                f"{_named(name, revision)}: no tokenizer found. {_line(not_llm_jp)} Name one with --tokenizer."
            ) from not_llm_jp


def check_model_directory(name: str) -> None:
    """A path that does not exist is told from a repository: transformers would only say that neither was found.

    Raises:
        UsageError: it is a path, and no directory of a model.
    """
    path = Path(name).expanduser()
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    if path.is_file():
        raise UsageError(f"{name} is a file. Name the directory that holds config.json and the weights.")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UsageError(
                f"{name} holds no config.json, so it is no model. Name a directory that save_pretrained wrote."
            )
    elif looks_like_path:
        raise UsageError(f"{name}: no such directory. Name a model's directory or its repository (ORG/NAME).")


def usable_device(device: str | None) -> str:
    """The device that is named, or by default a GPU where there is one.

    Raises:
        UsageError: it is not to be had.
    """
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"--device {device}: not to be had here. {_line(error)}") from error
    return device


def _named(name: str, revision: str | None) -> str:
    return name if revision is None else f"{name}@{revision}"


def _line(error: BaseException) -> str:
    """The first line of what a library says."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

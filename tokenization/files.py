"""Where a tokenizer is made from, and the directory that it is written to."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .tokenization_llm_jp import LlmJpTokenizer

# What a tokenizer's directory may hold. One that holds anything else is never replaced.
_TOKENIZER_FILES = {
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


def build_tokenizer(source: str) -> LlmJpTokenizer:
    """Makes the encoder tokenizer from whatever form of a llm-jp tokenizer is at hand.

    Args:
        source: a SentencePiece `.model` file; a tokenizer.json; a directory that holds either; or a repository such as
            `llm-jp/llm-jp-3-1.8b`, with `@REVISION` behind it for another revision than `main`.

    Raises:
        ValueError: if there is no llm-jp tokenizer.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _from_directory(path)
    if path.suffix == ".json":
        return LlmJpTokenizer.from_decoder(path)
    # No repository of llm-jp's ends in `.model`; anything else with one slash may be one.
    if path.is_file() or path.suffix == ".model" or path.is_absolute() or source.startswith((".", "~")):
        return LlmJpTokenizer.from_sentencepiece(path)
    repository, _, revision = source.partition("@")
    return LlmJpTokenizer.from_pretrained(repository, revision=revision or None)


def _from_directory(directory: Path) -> LlmJpTokenizer:
    if (directory / "tokenizer.json").is_file():
        return LlmJpTokenizer.from_pretrained(directory)
    models = sorted(directory.glob("*.model"))
    if len(models) == 1:
        return LlmJpTokenizer.from_sentencepiece(models[0])
    if models:
        names = ", ".join(model.name for model in models)
        raise ValueError(f"{directory} holds several SentencePiece models ({names}). Name one of these files.")
    raise ValueError(
        f"{directory} holds neither a tokenizer.json nor a SentencePiece *.model. Name a directory or file that does."
    )


def write_tokenizer(tokenizer: LlmJpTokenizer, out_dir: str | os.PathLike[str]) -> Path:
    """Writes a tokenizer's directory, whole or not at all; one that holds an older tokenizer is replaced.

    Args:
        tokenizer: what to write.
        out_dir: the directory, whose parents are made as needed. To put the tokenizer beside a model use
            `tokenizer.save_pretrained`.

    Returns:
        The directory.

    Raises:
        ValueError: if `out_dir` is a file, or holds anything but a tokenizer.
    """
    target = Path(out_dir).expanduser().absolute()
    _check_replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = (target.with_name(f".{target.name}.{os.getpid()}.{role}") for role in ("new", "old"))
    try:
        tokenizer.save_pretrained(fresh)
        if target.exists():
            target.rename(old)
        try:
            fresh.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    finally:
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
    return target


def _check_replaceable(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise ValueError(f"{target} is a file. Name a directory to write the tokenizer to.")
    others = sorted(entry.name for entry in target.iterdir() if entry.name not in _TOKENIZER_FILES)
    if others:
        raise ValueError(
            f"{target} holds other things than a tokenizer ({', '.join(others[:3])}{', …' if others[3:] else ''}). "
            "Name a new or empty directory."
        )

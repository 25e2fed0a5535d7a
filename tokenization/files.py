"""Build a tokenizer from any of its published forms, and write its directory."""

from __future__ import annotations

import os
from pathlib import Path

from llm_jp_modernbert.core.files import atomic_directory
from llm_jp_modernbert.core.references import ModelReference, is_local_path

from .tokenization_llm_jp import LlmJpTokenizer

# A directory with any other file is never replaced.
_TOKENIZER_FILES = {
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


def build_tokenizer(source: str) -> LlmJpTokenizer:
    """Builds the encoder tokenizer from any form of an llm-jp tokenizer.

    Args:
        source: a SentencePiece `.model` file; a tokenizer.json; a directory that holds either; or a repository such as
            `llm-jp/llm-jp-3-1.8b`, optionally at a revision (`ORG/NAME@REVISION`).

    Raises:
        ValueError: the source is missing or not an llm-jp tokenizer.
    """
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        return _from_directory(path)
    if path.suffix == ".json":
        return LlmJpTokenizer.from_decoder(path)
    if path.suffix == ".model" or is_local_path(source):
        return LlmJpTokenizer.from_sentencepiece(path)
    reference = ModelReference.parse(source)
    return LlmJpTokenizer.from_pretrained(reference.name, revision=reference.revision)


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
    """Writes the directory of a tokenizer atomically; an older tokenizer is replaced.

    To save a tokenizer into the directory of a model, use `tokenizer.save_pretrained`.

    Args:
        tokenizer: the tokenizer.
        out_dir: the directory; missing parents are created.

    Returns:
        The directory.

    Raises:
        ValueError: `out_dir` is a file, or holds anything but a tokenizer.
    """
    target = Path(os.path.expanduser(out_dir)).absolute()
    if target.is_file():
        raise ValueError(f"{target} is a file. Name a directory to write the tokenizer to.")
    others = sorted(path.name for path in target.glob("*") if path.name not in _TOKENIZER_FILES)
    if others:
        raise ValueError(
            f"{target} holds other files than a tokenizer's ({', '.join(others[:3])}{', …' if others[3:] else ''}). "
            "Name a new or empty directory."
        )
    with atomic_directory(target, replace=True) as directory:
        tokenizer.save_pretrained(directory)
    return target

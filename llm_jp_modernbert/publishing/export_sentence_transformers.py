"""Adds the files that sentence-transformers needs to a saved model."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from llm_jp_modernbert.core.errors import UsageError, first_line

POOLINGS = ("mean", "cls")

# Files that sentence-transformers adds to those of the model and the tokenizer.
_FILES = (
    *("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"),
    "1_Pooling/config.json",
)


def add_sentence_transformers(folder: Path, pooling: str = "mean") -> list[str]:
    """Makes a saved model loadable by `SentenceTransformer(folder)`.

    Texts are truncated to the context length and compared by cosine similarity. Without this package, native
    checkpoints need `trust_remote_code=True`.

    Args:
        folder: a saved model with its tokenizer; existing files are not changed.
        pooling: `"mean"` of the token embeddings, or `"cls"` for the first token.

    Returns:
        The added files, relative to the folder.

    Raises:
        UsageError: unknown pooling, the folder holds no model with a tokenizer, or sentence-transformers is missing.
    """
    if pooling not in POOLINGS:
        raise UsageError(f"pooling {pooling!r}: choose {' or '.join(POOLINGS)}.")
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer import modules
    except ImportError as error:
        raise UsageError(
            "the export needs sentence-transformers 5.4 or later: pip install 'llm-jp-modernbert[eval]'."
        ) from error
    try:
        transformer = modules.Transformer(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{folder}: cannot be loaded as an encoder. {first_line(error)}") from error
    parts = [transformer, modules.Pooling(transformer.get_embedding_dimension(), pooling_mode=pooling)]
    with tempfile.TemporaryDirectory() as saved:
        SentenceTransformer(modules=parts, device="cpu").save_pretrained(saved, create_model_card=False)
        for name in _FILES:
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(Path(saved) / name, folder / name)
    return list(_FILES)

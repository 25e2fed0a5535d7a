"""Beside a saved model, what plain sentence-transformers needs to make embeddings with it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from llm_jp_modernbert.core.errors import UsageError

POOLINGS = ("mean", "cls")

# What sentence-transformers saves beside the model and its tokenizer, which are there already.
_FILES = (
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)


def add_sentence_transformers(folder: Path, pooling: str = "mean") -> list[str]:
    """Lets `SentenceTransformer(folder)` load a saved model as an encoder of texts.

    Texts are cut at as many tokens as model and tokenizer allow, and compared by cosine. Of a native checkpoint,
    sentence-transformers wants `trust_remote_code=True` where this package is not imported.

    Args:
        folder: a checkpoint of `save_pretrained`, with its tokenizer; its own files stay as they are.
        pooling: `"mean"` of the tokens, or `"cls"`, the first one.

    Returns:
        The files that were added, as paths below the folder.

    Raises:
        UsageError: an unknown pooling, a folder that holds no model with a tokenizer, or sentence-transformers is
            missing.
    """
    if pooling not in POOLINGS:
        raise UsageError(f"pooling {pooling!r}: choose {' or '.join(POOLINGS)}.")
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer import modules
    except ImportError as error:
        raise UsageError(
            "the export for sentence-transformers needs it, 5.4 or later: pip install 'llm-jp-modernbert[eval]'."
        ) from error
    try:
        transformer = modules.Transformer(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{folder}: cannot be loaded as an encoder. {str(error).splitlines()[0]}") from error
    parts = [transformer, modules.Pooling(transformer.get_embedding_dimension(), pooling_mode=pooling)]
    with tempfile.TemporaryDirectory() as saved:
        SentenceTransformer(modules=parts, device="cpu").save_pretrained(saved, create_model_card=False)
        for name in _FILES:
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(Path(saved) / name, folder / name)
    return list(_FILES)

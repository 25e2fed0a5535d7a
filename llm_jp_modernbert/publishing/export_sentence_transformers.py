"""Adds the files that sentence-transformers needs to a saved model."""

from __future__ import annotations

import json
from pathlib import Path

from llm_jp_modernbert.core.errors import UsageError, first_line
from llm_jp_modernbert.core.files import write_whole

POOLINGS = ("mean", "cls")


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
        from sentence_transformers import sentence_transformer
    except ImportError as error:
        raise UsageError(
            "the export needs sentence-transformers 5.4 or later: pip install 'llm-jp-modernbert[eval]'."
        ) from error
    try:
        transformer = sentence_transformer.modules.Transformer(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{folder}: cannot be loaded as an encoder. {first_line(error)}") from error
    # Versions before 5.4 read only this layout, and later ones read it too. `save_pretrained` writes another.
    files = {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ],
        "config_sentence_transformers.json": {
            "prompts": {"query": "", "document": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        "sentence_bert_config.json": {"max_seq_length": transformer.max_seq_length, "do_lower_case": False},
        "1_Pooling/config.json": {
            "word_embedding_dimension": transformer.get_embedding_dimension(),
            "pooling_mode_cls_token": pooling == "cls",
            "pooling_mode_mean_tokens": pooling == "mean",
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_whole(folder / name, json.dumps(content, indent=2) + "\n")
    return list(files)

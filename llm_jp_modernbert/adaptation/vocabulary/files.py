"""Write a model whose vocabulary was changed: the rows of its weights, its configuration and its tokenizer."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import read_config, read_json, write_whole
from llm_jp_modernbert.inference.heads import Head, head_of
from llm_jp_modernbert.inference.loading import OUR_MODEL_TYPES

WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"

_CONFIG, _TOKENIZER_CONFIG, _MODULES, _TRAINING = (
    "config.json",
    "tokenizer_config.json",
    "modules.json",
    "training.json",
)
# Ends of the names of weights that have a row per token.
_PER_TOKEN = ("embeddings.tok_embeddings.weight", "decoder.weight", "decoder.bias")
# Copied unchanged: the code of a native checkpoint, and what sentence-transformers reads in addition.
_COPIED = ("*.py", _MODULES, "config_sentence_transformers.json", "sentence_bert_config.json", "[0-9]*_*")
# Vocabularies may be padded to multiples of at most this number of rows.
_PADDING = 128

Rows = Sequence[Sequence[int]]
"""For each new token the ids of old tokens whose weights are averaged; a single one is copied."""


def check_model(folder: Path) -> Head:
    """Checks that the vocabulary of a model can be changed, and returns the head of the model.

    Raises:
        UsageError: it is not a ModernBERT model, its head is unknown, its weights are not one readable safetensors
            file, or its vectors are over the vocabulary.
    """
    config = read_config(folder)
    kind = config.get("model_type")
    if kind not in OUR_MODEL_TYPES:
        raise UsageError(f"{folder}: a {kind} model. Only vocabularies of ModernBERT models can be changed.")
    if not (folder / WEIGHTS).is_file():
        raise UsageError(
            f"{folder}: holds no {WEIGHTS}. Save the model in a single file: save_pretrained of transformers."
        )
    if (folder / _MODULES).is_file() and "Splade" in (folder / _MODULES).read_text(encoding="utf-8"):
        raise UsageError(
            f"{folder}: a sparse model, whose vectors have a number per token. Change the vocabulary of its base, and "
            "train it again."
        )
    parameters(folder)
    return head_of(config)


def parameters(folder: Path) -> int:
    """The number of parameters in the weights of a model."""
    return sum(math.prod(shape) for shape in _shapes(folder).values())


def per_token_parameters(folder: Path) -> int:
    """The number of parameters in weights that have a row per token."""
    return sum(math.prod(shape) for name, shape in _shapes(folder).items() if name.endswith(_PER_TOKEN))


def _shapes(folder: Path) -> dict[str, Sequence[int]]:
    try:
        with safe_open(folder / WEIGHTS, "pt") as weights:
            return {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{folder / WEIGHTS}: cannot be read ({error}). Download it again.") from error


def write_model(
    source: Path, folder: Path, tokenizer: PreTrainedTokenizerBase, backend: Tokenizer, rows: Rows
) -> None:
    """Writes a model with another vocabulary in the format of the source.

    Args:
        source: directory of the model.
        folder: directory to write.
        tokenizer: the model's tokenizer.
        backend: its changed form.
        rows: for each token of `backend`, the old tokens that it comes from.
    """
    config = read_config(source)
    new_ids = {parts[0]: place for place, parts in enumerate(rows) if len(parts) == 1}
    padded = _padded(rows, len(tokenizer), config["vocab_size"])
    _write_weights(source / WEIGHTS, folder / WEIGHTS, padded)
    config["vocab_size"] = len(padded)
    for name, value in config.items():
        if name.endswith("_token_id") and isinstance(value, int):
            config[name] = new_ids.get(value, value)
    _write_json(folder / _CONFIG, config)
    tokenizer.save_pretrained(folder)
    backend.save(str(folder / TOKENIZER))
    _renumber(folder / _TOKENIZER_CONFIG, new_ids)
    training = (_TRAINING, "recipe.yaml") if (source / _TRAINING).is_file() else ()
    for path in (path for pattern in (*_COPIED, *training) for path in source.glob(pattern)):
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        else:
            shutil.copyfile(path, folder / path.name)


def _padded(rows: Rows, tokens: int, size: int) -> Rows:
    """The rows with repeated padding rows, up to a multiple of what the size of the old weights is a multiple of."""
    padding = [(place,) for place in range(tokens, size)]
    return [*rows, *islice(cycle(padding), -len(rows) % math.gcd(size, _PADDING))] if padding else rows


def _write_weights(source: Path, target: Path, rows: Rows) -> None:
    first = torch.tensor([parts[0] for parts in rows])
    averaged = [(place, list(parts)) for place, parts in enumerate(rows) if len(parts) > 1]
    with safe_open(source, "pt") as file:
        metadata = file.metadata() or {"format": "pt"}
        weights: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, weight in weights.items():
        if name.endswith(_PER_TOKEN):
            weights[name] = weight[first]
            for place, parts in averaged:
                weights[name][place] = weight[parts].float().mean(0).to(weight.dtype)
    save_file(weights, target, metadata=metadata)


def _renumber(path: Path, new_ids: Mapping[int, int]) -> None:
    """Changes the ids in the tokenizer_config.json that older versions of transformers write."""
    settings: dict[str, Any] = read_json(path, dict[str, Any])
    added = settings.get("added_tokens_decoder")
    if added:
        settings["added_tokens_decoder"] = {str(new_ids[int(token_id)]): token for token_id, token in added.items()}
        _write_json(path, settings)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")

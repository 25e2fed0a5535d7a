"""The layout of saved sentence-transformers models that versions 5.1 and 6.2 read with equal results.

Version 5.4 renamed modules and their settings, and reads the old names too; earlier versions refuse the new ones. So
the old names are written. Late-interaction models exist only from version 6.0 on and keep its names, but get a
configuration and a tokenizer that transformers 4 reads as well.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from llm_jp_modernbert.core.files import read_config, read_json, write_whole

MODULES = "modules.json"
"""File that lists the modules of a sentence-transformers model."""

SETTINGS = "config_sentence_transformers.json"
"""File with the type, prompts and similarity function of a sentence-transformers model."""

TRANSFORMER_SETTINGS = "sentence_bert_config.json"
"""File with the settings of the encoder's module."""

_OLD_FOLDERS = {
    **dict.fromkeys(
        ("Transformer", "Pooling", "Dense", "Normalize", "LayerNorm", "Dropout", "WeightedLayerPooling"),
        "sentence_transformers.models",
    ),
    **dict.fromkeys(
        ("MLMTransformer", "SpladePooling", "SparseAutoEncoder"), "sentence_transformers.sparse_encoder.models"
    ),
}
# In the order in which earlier versions concatenate.
_POOLING_MODES = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
# Names of transformers 4 and 5 for the alternation of layers.
_BOTH_GENERATIONS = (
    *("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"),
    *("layer_types", "rope_parameters"),
)
# Values that earlier versions assume; they refuse the keys.
_ASSUMED = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
# Class of a tokenizer that transformers 4 and 5 load from tokenizer.json as it is.
_TOKENIZER_CLASS = "PreTrainedTokenizerFast"
# Settings of this machine, or that only transformers 5 reads.
_TOKENIZER_SETTINGS = ("backend", "is_local", "local_files_only")


class Module(TypedDict):
    """A module in `modules.json`: its directory, which is empty for the encoder, and its class."""

    path: str
    type: str


def make_portable(folder: Path) -> None:
    """Rewrites a model that sentence-transformers saved in the layout that versions 5.1 and 6.2 read alike.

    Args:
        folder: directory of a SentenceTransformer, CrossEncoder, SparseEncoder or MultiVectorEncoder with a ModernBERT
            encoder in the `modernbert` format. Weights are not changed.

    Raises:
        UsageError: a file of the model is not valid.

    Example:
        >>> model.save_pretrained("embedder")
        >>> make_portable(Path("embedder"))
    """
    _port_config(folder)
    _port_tokenizer(folder)
    port_modules(folder)


def port_modules(folder: Path) -> None:
    """The part of `make_portable` that concerns modules and settings, without configuration and tokenizer."""
    settings = _read(folder / SETTINGS)
    # Without versions, an earlier version does not warn about a newer one.
    settings.pop("__version__", None)
    kind = settings.setdefault("model_type", "SentenceTransformer")
    _write(folder / SETTINGS, settings)
    if kind in ("SentenceTransformer", "SparseEncoder"):
        _rename_modules(folder, kind)


def _rename_modules(folder: Path, kind: str) -> None:
    modules: list[dict[str, Any]] = read_json(folder / MODULES, list[dict[str, Any]])
    for module in modules:
        name = module["type"].rpartition(".")[2]
        if module["path"] == "" and name == "Transformer":
            name = _port_transformer(folder)
        if name in _OLD_FOLDERS:
            module["type"] = f"{_OLD_FOLDERS[name]}.{name}"
        path = folder / module["path"] / "config.json"
        if module["path"] and path.is_file():
            _write(path, _old_names(_read(path)))
    _write(folder / MODULES, modules)


def _port_transformer(folder: Path) -> str:
    """Writes the encoder's settings under their old names; returns the old name of its class."""
    settings, tokenizer = _read(folder / TRANSFORMER_SETTINGS), _read(folder / "tokenizer_config.json")
    limits = [tokenizer.get("model_max_length"), read_config(folder).get("max_position_embeddings")]
    length = settings.get("max_seq_length") or min((limit for limit in limits if limit is not None), default=None)
    old = {"max_seq_length": length, "do_lower_case": settings.get("do_lower_case", False)}
    _write(folder / TRANSFORMER_SETTINGS, old)
    return "MLMTransformer" if settings.get("transformer_task") == "fill-mask" else "Transformer"


def _old_names(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a module other than the encoder under their old names."""
    old = {key: value for key, value in settings.items() if value != _ASSUMED.get(key, ...)}
    if "embedding_dimension" in old:
        old["word_embedding_dimension"] = old.pop("embedding_dimension")
    modes = old.get("pooling_mode", [])
    chosen = [modes] if isinstance(modes, str) else modes
    # The old names cannot state another order.
    if chosen and chosen == [mode for mode in _POOLING_MODES if mode in chosen]:
        del old["pooling_mode"]
        old |= {key: mode in chosen for mode, key in _POOLING_MODES.items()}
    return old


def _port_config(folder: Path) -> None:
    """Adds transformers 4's names to the encoder's configuration, and the activation function of a CrossEncoder."""
    from llm_jp_modernbert.modeling.configuration_llm_jp_modernbert import LlmJpModernBertConfig

    saved = read_config(folder)
    config = LlmJpModernBertConfig.from_dict(saved)
    config.checkpoint_format = "plain"
    values = config.to_dict()
    content = {key: values[key] for key in (*saved, *_BOTH_GENERATIONS) if key in values}
    settings = _read(folder / SETTINGS)
    if settings.get("model_type") == "CrossEncoder":
        content["sentence_transformers"] = {"activation_fn": settings.get("activation_fn")}
    _write(folder / "config.json", dict(sorted(content.items())))


def _port_tokenizer(folder: Path) -> None:
    """Lets transformers 4 and 5 load tokenizer.json alike, without the truncation and padding of the last call."""
    from tokenizers import Tokenizer

    if not (folder / "tokenizer.json").is_file():
        return
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    write_whole(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    settings = {
        key: value for key, value in _read(folder / "tokenizer_config.json").items() if key not in _TOKENIZER_SETTINGS
    }
    settings["tokenizer_class"] = _TOKENIZER_CLASS
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    _write(folder / "tokenizer_config.json", settings)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = read_json(path, dict[str, Any]) if path.is_file() else {}
    return content


def _write(path: Path, content: Any) -> None:
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

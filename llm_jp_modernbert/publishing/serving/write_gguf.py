"""Converts a plain ModernBERT folder with a unigram tokenizer to GGUF, which llama.cpp reads.

    python -m llm_jp_modernbert.publishing.serving.write_gguf DIR FILE.gguf

llama.cpp's own converter takes only BPE tokenizers for this architecture. This module imports nothing of the package,
so that the probe of llama.cpp can load it in any environment with gguf, numpy and safetensors.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_POOLINGS = {"mean": "MEAN", "cls": "CLS"}
_GLOBAL, _LOCAL = "full_attention", "sliding_attention"


def unsupported(folder: Path) -> str | None:
    """Why llama.cpp cannot compute the encoder of a model, or None."""
    config = _read(folder / "config.json")
    if config.get("model_type") != "modernbert":
        return f"knows no model type {config.get('model_type')!r}: release with --format plain"
    if biased := [name for name in ("attention_bias", "mlp_bias", "norm_bias") if config.get(name)]:
        return f"has no biases: {', '.join(biased)}"
    if config.get("hidden_activation", "gelu") != "gelu":
        return f"knows no activation {config['hidden_activation']!r}"
    types = {parameters.get("rope_type", "default") for parameters in (config.get("rope_parameters") or {}).values()}
    if types - {"default"}:
        return f"is converted here for the default RoPE only, not for {', '.join(sorted(types - {'default'}))}"
    every = config["global_attn_every_n_layers"]
    pattern = [_LOCAL if number % every else _GLOBAL for number in range(config["num_hidden_layers"])]
    if config.get("layer_types", pattern) != pattern:
        return "has global layers at regular distances only, and layer_types has others"
    if _read(folder / "tokenizer.json")["model"]["type"] != "Unigram":
        return "is converted here for unigram tokenizers only: use llama.cpp's convert_hf_to_gguf.py"
    return None


def write_gguf(folder: Path, file: Path) -> bool:
    """Writes the encoder, its pooling and its tokenizer in float32.

    Args:
        folder: a released or saved model in the plain format, which is not `unsupported`.
        file: the file to write.

    Returns:
        Whether the file has a pooling: that of a sentence-transformers model without other modules than `Normalize`.
        llama-server normalizes by default.
    """
    import gguf

    config = _read(folder / "config.json")
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.MODERN_BERT])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_causal_attention(False)
    # The first layer and every n-th after it are global.
    writer.add_sliding_window(config["local_attention"])
    writer.add_sliding_window_pattern(config["global_attn_every_n_layers"])
    writer.add_rope_freq_base(_rope_theta(config, _GLOBAL, "global_rope_theta"))
    writer.add_rope_freq_base_swa(_rope_theta(config, _LOCAL, "local_rope_theta"))
    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    pooling = _pooling(folder)
    if pooling is not None:
        writer.add_pooling_type(gguf.PoolingType[_POOLINGS[pooling]])
    _add_tokenizer(writer, folder, config["vocab_size"])
    _add_tensors(writer, folder, config["num_hidden_layers"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return pooling is not None


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _rope_theta(config: dict[str, Any], layer_type: str, old_key: str) -> float:
    """The theta of a type of layers, by the keys of transformers 5, or else of transformers 4."""
    parameters = (config.get("rope_parameters") or {}).get(layer_type)
    return float(parameters["rope_theta"] if parameters else config[old_key])


def is_normalized(folder: Path) -> bool:
    """Whether a sentence-transformers model scales its embeddings to length 1."""
    return _modules(folder)[-1:] == ["Normalize"]


def _modules(folder: Path) -> list[str]:
    """The names of the modules of a sentence-transformers model, none for other models."""
    if not (folder / "modules.json").is_file():
        return []
    return [module["type"].rpartition(".")[2] for module in _read(folder / "modules.json")]


def _pooling(folder: Path) -> str | None:
    """`mean` or `cls` for a sentence-transformers model of this pooling alone, or with normalization."""
    if _modules(folder) not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        return None
    settings = _read(folder / _read(folder / "modules.json")[1]["path"] / "config.json")
    # sentence-transformers 6 names the mode, older versions have a key for each.
    old = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}
    return next((mode for mode in _POOLINGS if settings.get("pooling_mode") == mode or settings.get(old[mode])), None)


def _add_tokenizer(writer: Any, folder: Path, size: int) -> None:
    import gguf

    tokenizer = _read(folder / "tokenizer.json")
    names = {entry["id"]: entry["content"] for entry in tokenizer["added_tokens"]}
    # Rows of the embedding table without a token are unused.
    tokens = [names.get(number, f"[UNUSED{number}]") for number in range(size)]
    scores, types = [-10000.0] * size, [gguf.TokenType.UNUSED] * size
    pieces = {piece for piece, _ in tokenizer["model"]["vocab"]}
    for number, (piece, score) in enumerate(tokenizer["model"]["vocab"]):
        tokens[number], scores[number] = names.get(number, piece), score
        types[number] = gguf.TokenType.NORMAL
        if piece.startswith("<0x") and len(piece) == 6:
            character = chr(int(piece[3:5], 16))
            # llama.cpp's unigram tokenizer has no byte fallback. For one byte (a line break), a piece does the same.
            if character.isascii() and character != "\0" and character not in pieces:
                tokens[number] = character
            else:
                types[number] = gguf.TokenType.BYTE
    for number in names:
        types[number] = gguf.TokenType.CONTROL
    types[tokenizer["model"]["unk_id"]] = gguf.TokenType.UNKNOWN
    # llama.cpp calls its unigram tokenizer t5.
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_add_space_prefix(True)
    writer.add_remove_extra_whitespaces(False)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)
    ids = {name: number for number, name in enumerate(tokens)}
    settings = _read(folder / "tokenizer_config.json")
    for name, add in (
        ("cls_token", writer.add_bos_token_id),
        ("sep_token", writer.add_eos_token_id),
        ("sep_token", writer.add_sep_token_id),
        ("unk_token", writer.add_unk_token_id),
        ("pad_token", writer.add_pad_token_id),
        ("mask_token", writer.add_mask_token_id),
    ):
        if settings.get(name) in ids:
            add(ids[settings[name]])


def _add_tensors(writer: Any, folder: Path, layers: int) -> None:
    import gguf
    import numpy as np
    from safetensors import safe_open

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MODERN_BERT, layers)
    for file in sorted(folder.glob("model*.safetensors")):
        with safe_open(file, framework="numpy") as weights:
            for key in weights.keys():  # noqa: SIM118
                name = key.removeprefix("model.")
                # Heads, apart from the encoder.
                if name.startswith(("head.", "decoder.", "classifier.", "qa_outputs.")):
                    continue
                tensor = weights.get_tensor(key).astype("float32")
                writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(tensor))


if __name__ == "__main__":
    directory, output = map(Path, sys.argv[1:])
    if reason := unsupported(directory):
        sys.exit(f"{directory}: llama.cpp {reason}.")
    write_gguf(directory, output)

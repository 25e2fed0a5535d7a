"""sentence-transformers models: the files that make a saved model one, and releases of existing ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from llm_jp_modernbert.core.errors import UsageError, first_line
from llm_jp_modernbert.core.files import files_by_path, read_json, write_whole
from llm_jp_modernbert.inference.loading import loading_errors
from llm_jp_modernbert.inference.retrieval.layout import (
    MODULES,
    SETTINGS,
    TRANSFORMER_SETTINGS,
    Module,
    make_portable,
    port_modules,
)
from llm_jp_modernbert.model_cards.facts import Exports

from . import staging

POOLINGS = ("mean", "cls")
_CLASSES = ("SentenceTransformer", "CrossEncoder", "SparseEncoder", "MultiVectorEncoder")


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
    sentence_transformer = _library().sentence_transformer
    try:
        transformer = sentence_transformer.modules.Transformer(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{folder}: cannot be loaded as an encoder. {first_line(error)}") from error
    files: dict[str, Any] = {
        MODULES: [
            {"idx": number, "name": str(number), "path": path, "type": kind}
            for number, (path, kind) in enumerate({"": "Transformer", "1_Pooling": "Pooling"}.items())
        ],
        SETTINGS: {
            "prompts": {"query": "", "document": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        TRANSFORMER_SETTINGS: {"max_seq_length": transformer.max_seq_length},
        "1_Pooling/config.json": {
            "embedding_dimension": transformer.get_embedding_dimension(),
            "pooling_mode": pooling,
        },
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_whole(folder / name, json.dumps(content, indent=2) + "\n")
    port_modules(folder)
    return list(files)


def embedder_class(source: Path) -> str | None:
    """The class of sentence-transformers that loads a model directory; None if there is none.

    Raises:
        UsageError: its files are damaged; its class is unknown; its encoder is not in the directory itself; or a
            module has files that cannot be published.
    """
    if not (source / MODULES).is_file():
        return None
    settings = read_json(source / SETTINGS, dict[str, Any]) if (source / SETTINGS).is_file() else {}
    name = settings.get("model_type", "SentenceTransformer")
    if name not in _CLASSES:
        raise UsageError(f"{source} is a {name} of sentence-transformers. Released are {', '.join(_CLASSES)}.")
    paths = [module["path"] for module in read_json(source / MODULES, list[Module])]
    if paths[:1] != [""] or not all(path and Path(path).name == path for path in paths[1:]):
        raise UsageError(f"{source / MODULES}: expected an encoder with the path '', and modules in directories.")
    staging.check_links(source, [f"{path}/**/*" for path in paths[1:]])
    for path in _module_files(source).values():
        if path.suffix not in (".json", ".safetensors"):
            raise UsageError(f"{path}: not in safetensors format. Save the model again with sentence-transformers.")
    return str(name)


def load_embedder(source: Path) -> Any:
    """Loads a directory with sentence-transformers, in float32.

    Returns:
        A model of one of its four classes; None if the directory is not a model of that library.

    Raises:
        UsageError: it cannot be loaded, or sentence-transformers is missing.
    """
    name = embedder_class(source)
    if name is None:
        return None
    library = _library()
    try:
        return getattr(library, name)(str(source), device="cpu", model_kwargs={"dtype": "float32"})
    except loading_errors() as error:
        raise UsageError(f"{source}: sentence-transformers cannot load it. {first_line(error)}") from error


def described(embedder: Any, onnx: tuple[str, ...] = ()) -> Exports:
    """The facts of a loaded model of sentence-transformers that its card states.

    Args:
        embedder: the model.
        onnx: ONNX files of the release.
    """
    name, others = type(embedder).__name__, list(embedder)[1:]
    is_reranker = name == "CrossEncoder"
    modes = [getattr(module, "pooling_mode", None) or getattr(module, "pooling_strategy", None) for module in others]
    return Exports(
        onnx,
        True,
        pooling="+".join(mode if isinstance(mode, str) else "+".join(mode) for mode in modes if mode),
        model_type=name,
        prompts={key: prompt or "" for key, prompt in embedder.prompts.items()},
        default_prompt=embedder.default_prompt_name,
        similarity="" if is_reranker else str(embedder.similarity_fn_name),
        dimensions=0 if is_reranker else embedder.get_embedding_dimension() or 0,
        max_length=embedder.max_seq_length,
        other_parameters=sum(weight.numel() for module in others for weight in module.parameters()),
        # Version 5.1 has neither of these settings, nor poolings in any order.
        is_portable=getattr(embedder, "truncate_dim", None) is None
        and not (is_reranker and any(embedder.prompts.values()))
        and all(isinstance(mode, str) for mode in modes if mode),
    )


def stage_modules(source: Path, folder: Path) -> None:
    """Copies the modules and settings of a model that `embedder_class` accepts to its staged encoder and tokenizer.

    The result has the layout that earlier versions of sentence-transformers read as well.
    """
    settings = [source / MODULES, source / SETTINGS, *source.glob("sentence_*_config.json")]
    for name, path in {**{path.name: path for path in settings}, **_module_files(source)}.items():
        if path.is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
    make_portable(folder)


def _module_files(source: Path) -> dict[str, Path]:
    """The files of all modules but the encoder, by path."""
    folders = [module["path"] for module in read_json(source / MODULES, list[Module])[1:]]
    return {f"{name}/{path}": file for name in folders for path, file in files_by_path(source / name).items()}


def _library() -> Any:
    try:
        import sentence_transformers
        from sentence_transformers import sentence_transformer  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "sentence-transformers 5.4 or later is needed: pip install 'llm-jp-modernbert[eval]'."
        ) from error
    return sentence_transformers

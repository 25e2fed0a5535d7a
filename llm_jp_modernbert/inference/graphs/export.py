"""Exports packed graphs: one ONNX file, or OpenVINO's intermediate representation, next to a description.

A graph is exported from a model on first use and kept in a cache, or shipped with a model in its folder `packed`.
"""

from __future__ import annotations

import logging
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from llm_jp_modernbert.core.errors import UsageError, describe, first_line
from llm_jp_modernbert.core.files import atomic_directory, read_config, read_json, write_json
from llm_jp_modernbert.core.references import ModelReference

from ..heads import ENCODER, MASKED_LM, Head, head_of
from ..loading import OUR_MODEL_TYPES, load_model, model_revision
from ..retrieval.layout import MODULES, Module
from .exporters import LARGEST_FILE, quiet_exporters, remove_metadata, rename_weights
from .inputs import INPUTS, LOGITS_POSITIONS
from .module import PackedGraph, Pooling, output_names

logger = logging.getLogger(__name__)

Runtime = Literal["onnx", "openvino"]

FOLDER = "packed"
"""Folder of a model in which its packed graphs are released, one folder for each runtime."""

FILES: dict[Runtime, str] = {"onnx": "model.onnx", "openvino": "openvino_model.xml"}
"""File of a graph by runtime."""

DESCRIPTION = "graph.json"

_VERSION = version("llm-jp-modernbert")

# A RoPE type that depends on the length of a document cannot be a table.
_ROPE_TYPES = ("default", "linear", "yarn", "llama3")
_ONNX_OPSET = 20
# Shapes with which a graph is traced. Axes that may differ have different sizes, or they would be taken for equal.
_TOKENS, _ROWS, _QUERIES, _KEYS, _DOCUMENTS, _LONGEST, _SELECTED = 41, 5, 11, 19, 3, 13, 7
_SHAPES = {
    **dict.fromkeys(("input_ids", "positions", "local_outputs", "global_outputs", "documents"), (_TOKENS,)),
    "local_queries": (_ROWS, _QUERIES),
    "local_keys": (_ROWS, _KEYS),
    "local_mask": (_ROWS, 1, _QUERIES, _KEYS),
    "global_tokens": (_DOCUMENTS, _LONGEST),
    "global_mask": (_DOCUMENTS, 1, 1, _LONGEST),
    LOGITS_POSITIONS: (_SELECTED,),
}


class Description(TypedDict):
    """Content of `graph.json`.

    Attributes:
        window: tokens on either side that a local layer attends to.
        max_length: largest number of tokens of a document.
        outputs: names of the outputs.
        revision: commit of the model's repository, or hash of its weights.
        version: version of this package that exported the graph.
    """

    architecture: str
    window: int
    max_length: int
    outputs: list[str]
    revision: str
    version: str


def graph_folder(name: str, runtime: Runtime, revision: str | None = None) -> Path:
    """The folder with a model's packed graph: shipped with the model, cached, or exported into the cache now.

    Args:
        name: local path, repository, or `ORG/NAME@REVISION`.
        runtime: runtime that reads the graph.
        revision: branch, tag or commit of the repository, if the name does not have one.

    Raises:
        UsageError: the model cannot be loaded or exported, or a package is missing.
    """
    from filelock import FileLock

    reference = ModelReference.parse(name, revision)
    commit = model_revision(reference)
    shipped = _shipped(reference, runtime)
    if shipped is not None:
        return shipped
    folder = _cache() / f"{commit.replace(':', '-')}-{_VERSION}" / runtime
    if not (folder / DESCRIPTION).is_file():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            # Other processes of the same job wait for the first.
            with FileLock(folder.with_suffix(".lock")):
                if not (folder / DESCRIPTION).is_file():
                    logger.info("Exporting %s for %s into %s", reference, runtime, folder)
                    model = load_model(name, revision=revision, dtype="float32", device="cpu")
                    export_graph(model, folder, runtime, commit)
        except OSError as error:
            raise UsageError(
                f"the graph cannot be cached. {describe(error)} Set LLM_JP_MODERNBERT_CACHE to a writable directory."
            ) from error
    return folder


def add_packed_graphs(folder: Path) -> tuple[str, ...]:
    """Writes the packed graphs of a saved model into its folder `packed`, one folder for each runtime.

    Args:
        folder: a saved model in either format, or an embedder of sentence-transformers, whose files are final.

    Returns:
        Paths of the graphs relative to `folder`.

    Raises:
        UsageError: the model cannot be loaded or exported, or a package is missing.
    """
    model = load_model(str(folder), dtype="float32", device="cpu")
    revision = model_revision(ModelReference.parse(str(folder)))
    pooling, normalized = _pooling(folder)
    for runtime in FILES:
        export_graph(model, folder / FOLDER / runtime, runtime, revision, pooling, normalized)
    return tuple(f"{FOLDER}/{runtime}/{file}" for runtime, file in FILES.items())


def export_graph(
    model: Any,
    folder: Path,
    runtime: Runtime,
    revision: str,
    pooling: Pooling | None = None,
    normalized: bool = True,
) -> None:
    """Writes the packed graph of a model and its description into a new folder.

    Args:
        model: a float32 model of this package in evaluation mode.
        folder: the folder to write.
        runtime: `"onnx"` for `model.onnx`, `"openvino"` for `openvino_model.xml` and its weights.
        revision: commit or hash that identifies the weights.
        pooling: for an encoder, pooling of the additional output `sentence_embedding`.
        normalized: whether these vectors are scaled to length 1.

    Raises:
        UsageError: not a ModernBERT model, or a RoPE type without fixed frequencies; or a package is missing.
    """
    config = model.config
    if config.model_type not in OUR_MODEL_TYPES:
        raise UsageError(f"{model.name_or_path}: packed graphs are for ModernBERT, and this is {config.model_type}.")
    types = {str(parameters.get("rope_type", "default")) for parameters in config.rope_parameters.values()}
    if not types <= set(_ROPE_TYPES):
        raise UsageError(f"{model.name_or_path}: RoPE type {', '.join(sorted(types))} has no packed graph. Use torch.")
    head = head_of(config.to_dict())
    outputs = output_names(head, pooling)
    with atomic_directory(folder, replace=True) as temporary:
        file = temporary / FILES[runtime]
        # ONNX Runtime fuses the parts of attention itself.
        graph = PackedGraph(model, head, pooling, normalized, fused_attention=runtime == "openvino").eval()
        (_write_onnx if runtime == "onnx" else _write_openvino)(graph, outputs, file)
        description: Description = {
            "architecture": config.architectures[0],
            "window": config.local_attention // 2,
            "max_length": config.max_position_embeddings,
            "outputs": list(outputs),
            "revision": revision,
            "version": _VERSION,
        }
        write_json(temporary / DESCRIPTION, description)


def _pooling(folder: Path) -> tuple[Pooling | None, bool]:
    """The pooling of an embedder and whether it normalises; None for other models and modules."""
    if not (folder / MODULES).is_file() or head_of(read_config(folder)) is not ENCODER:
        return None, False
    _, *modules = read_json(folder / MODULES, list[Module])
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if kinds not in (["Pooling"], ["Pooling", "Normalize"]):
        return None, False
    settings = read_json(folder / modules[0]["path"] / "config.json", dict[str, Any])
    poolings: dict[str, Pooling] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    modes = [key for key, value in settings.items() if key.startswith("pooling_mode_") and value]
    return (poolings.get(modes[0]) if len(modes) == 1 else None), len(kinds) == 2


def input_names(head: Head) -> tuple[str, ...]:
    """Names of the inputs of a graph."""
    return (*INPUTS, LOGITS_POSITIONS) if head is MASKED_LM else INPUTS


def _shipped(reference: ModelReference, runtime: Runtime) -> Path | None:
    """The folder of a graph that was released with a model, if it belongs to the model's weights."""
    if reference.is_local:
        model = reference.path
    else:
        from huggingface_hub import snapshot_download

        patterns = ["config.json", "tokenizer.json", "*.safetensors", f"{FOLDER}/{runtime}/*"]
        try:
            model = Path(snapshot_download(reference.name, revision=reference.revision, allow_patterns=patterns))
        except (OSError, ValueError) as error:
            raise UsageError(f"{reference}: cannot be downloaded. {first_line(error)}") from error
    folder = model / FOLDER / runtime
    if not (folder / DESCRIPTION).is_file():
        return None
    weights = model_revision(ModelReference.parse(str(model)))
    return folder if read_json(folder / DESCRIPTION, Description)["revision"] == weights else None


def _cache() -> Path:
    from huggingface_hub.constants import HF_HOME

    return Path(os.environ.get("LLM_JP_MODERNBERT_CACHE") or Path(HF_HOME) / "llm-jp-modernbert" / "graphs")


def _program(graph: PackedGraph) -> Any:
    import torch

    # Zeros are valid indices and masks.
    examples = {
        name: torch.zeros(_SHAPES[name], dtype=torch.float32 if name.endswith("mask") else torch.int64)
        for name in input_names(graph.head)
    }
    # Axes of length 1 are the same for all batches.
    axes = {
        name: {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(example.shape) if size > 1}
        for name, example in examples.items()
    }
    with torch.no_grad():
        return torch.export.export(graph, (), examples, dynamic_shapes=axes, strict=False)


def _write_onnx(graph: PackedGraph, outputs: tuple[str, ...], file: Path) -> None:
    import torch

    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "the ONNX export needs onnx, onnxscript and onnxruntime: pip install 'llm-jp-modernbert[onnx]'."
        ) from error
    with quiet_exporters():
        program = torch.onnx.export(
            _program(graph),
            dynamo=True,
            verbose=False,
            opset_version=_ONNX_OPSET,
            input_names=list(input_names(graph.head)),
            output_names=list(outputs),
        )
        assert program is not None
        remove_metadata(program.model)
        size = sum(parameter.nbytes for parameter in graph.parameters())
        program.save(file, external_data=size > LARGEST_FILE)
        rename_weights(file)


def _write_openvino(graph: PackedGraph, outputs: tuple[str, ...], file: Path) -> None:
    try:
        import openvino
    except ImportError as error:
        raise UsageError("this needs OpenVINO: pip install 'llm-jp-modernbert[openvino]'.") from error
    with quiet_exporters():
        converted = openvino.convert_model(_program(graph))
    for value, name in zip((*converted.inputs, *converted.outputs), (*input_names(graph.head), *outputs), strict=True):
        value.get_tensor().set_names({name})
    # Names with counters of this process would make the files of two exports differ.
    converted.set_friendly_name("packed")
    for number, operation in enumerate(converted.get_ordered_ops()):
        operation.set_friendly_name(f"{operation.get_type_name()}_{number}")
    # float16 would change the weights.
    openvino.save_model(converted, file, compress_to_fp16=False)

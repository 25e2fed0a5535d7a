"""Runs packed graphs in ONNX Runtime and OpenVINO."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from llm_jp_modernbert.core.errors import UsageError, first_line
from llm_jp_modernbert.core.files import read_json

from .export import DESCRIPTION, FILES, Description
from .inputs import LOGITS_POSITIONS, graph_inputs

# Attention scores of a head and batch up to which ONNX Runtime keeps its memory for the next batch.
_KEPT_SCORES = 1 << 22


class GraphRunner(ABC):
    """Computes packed batches with an exported graph.

    Attributes:
        description: content of the graph's `graph.json`.
    """

    def __init__(self, folder: Path) -> None:
        self.description: Description = read_json(folder / DESCRIPTION, Description)

    def run(
        self, input_ids: np.ndarray, cu_seqlens: np.ndarray, positions: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Compute a packed row of documents.

        Args:
            input_ids: int64 `(total_tokens,)`.
            cu_seqlens: int `(documents + 1,)`, document boundaries; no document may be empty.
            positions: int64 `(selected,)`, tokens at which a masked language model predicts; None for none.

        Returns:
            float32 outputs by name, with the shapes that `module.output_names` lists.

        Raises:
            UsageError: a document is empty or longer than the model's context.
        """
        lengths = np.diff(cu_seqlens)
        limit = self.description["max_length"]
        if len(lengths) == 0 or lengths.min() < 1 or lengths.max() > limit:
            raise UsageError(f"there must be documents, each of 1 to {limit} tokens.")
        inputs = graph_inputs(input_ids, cu_seqlens, self.description["window"])
        if self.description["architecture"].endswith("ForMaskedLM"):
            none = np.empty(0, np.int64)
            inputs[LOGITS_POSITIONS] = none if positions is None else positions.astype(np.int64)
        return self._compute(inputs)

    @abstractmethod
    def _compute(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of the runtime by name."""


class OnnxRunner(GraphRunner):
    """Runs a graph in ONNX Runtime on a CPU, in float32.

    Args:
        folder: folder of the graph, from `graph_folder(…, "onnx")`.
        threads: number of threads; by default one per core.

    Raises:
        UsageError: ONNX Runtime is not installed, or the graph cannot be loaded.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        super().__init__(folder)
        try:
            import onnxruntime
        except ImportError as error:
            raise UsageError("this needs ONNX Runtime: pip install 'llm-jp-modernbert[onnx]'.") from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads:
            options.intra_op_num_threads = threads
        file = folder / FILES["onnx"]
        try:
            self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its classes have no public base
            raise UsageError(f"{file}: cannot be loaded. {first_line(error)} Delete its folder.") from error

        self._shrinking = onnxruntime.RunOptions()
        self._shrinking.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def _compute(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = self.description["outputs"]
        documents, longest = inputs["global_tokens"].shape
        # The memory of attention scores would be kept: 15 GB after a document of 8,192 tokens.
        is_large = documents * longest**2 > _KEPT_SCORES
        return dict(zip(names, self._session.run(names, inputs, self._shrinking if is_large else None), strict=True))


class OpenVinoRunner(GraphRunner):
    """Runs a graph in OpenVINO on a CPU.

    Args:
        folder: folder of the graph, from `graph_folder(…, "openvino")`.
        dtype: `"float32"`, or `"bfloat16"` on processors with instructions for it.
        threads: number of threads; by default one per core.

    Raises:
        UsageError: OpenVINO is not installed, the graph cannot be loaded, or the processor lacks bfloat16.
    """

    def __init__(self, folder: Path, dtype: str = "float32", threads: int | None = None) -> None:
        super().__init__(folder)
        try:
            import openvino
        except ImportError as error:
            raise UsageError("this needs OpenVINO: pip install 'llm-jp-modernbert[openvino]'.") from error
        core = openvino.Core()
        if dtype == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise UsageError("OpenVINO computes in bfloat16 only on processors with AVX-512 BF16 or AMX. Use float32.")
        settings: dict[str, str | int] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
        }
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        file = folder / FILES["openvino"]
        # A request computes one batch at a time.
        self._lock = threading.Lock()
        try:
            self._request = core.compile_model(str(file), "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise UsageError(f"{file}: cannot be loaded. {first_line(error)} Delete its folder.") from error

    def _compute(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        # Inputs are read in place; outputs are copied, because the next batch overwrites them.
        with self._lock:
            outputs = self._request.infer(inputs, share_inputs=True)
        return {name: outputs[name] for name in self.description["outputs"]}

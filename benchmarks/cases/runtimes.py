"""Encoder on a CPU: tokens/s of this library's backends, against the runtimes with a padded graph.

All candidates compute the same hidden states from the same weights. The peers are transformers, and ONNX Runtime and
OpenVINO with the graph that is exported from transformers' model. They read several texts one at a time, and in sorted
and padded batches of eight; OpenVINO's throughput hint also computes several texts at once. The fastest of these is
their best.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import torch
import typer

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import parse_json
from llm_jp_modernbert.core.text_files import read_json_lines, read_text
from llm_jp_modernbert.evaluation.data.readers import find
from llm_jp_modernbert.inference.encoder.batching import pack, padding_cost
from llm_jp_modernbert.inference.encoder.runner import Runner
from llm_jp_modernbert.inference.encoder.torch_runner import TorchRunner
from llm_jp_modernbert.inference.graphs.export import Runtime, export_graph
from llm_jp_modernbert.inference.graphs.runners import OnnxRunner, OpenVinoRunner
from llm_jp_modernbert.inference.loading import load_tokenizer
from llm_jp_modernbert.inference.masked_logits import split
from llm_jp_modernbert.inference.packed_weights import prepare_for_inference
from llm_jp_modernbert.publishing.export_onnx import FOLDER, export_onnx

from ..measure import OURS, Candidate, Case
from ..models import FIRST_WORD, Dtype, Models, Shape, find_data, whole_numbers

PEER = "OpenVINO"
TRANSFORMERS, ONNX_RUNTIME, SEVERAL = "transformers", "ONNX Runtime", "OpenVINO, several at once"

_MIXED = (20, 45, 80, 120, 200, 300, 400, 512)
_TOKENS_PER_BATCH = 8192
# The embedding takes no time, but memory in each of the models.
_VOCABULARY = 8000
# ONNX Runtime stores all attention scores: 15 GB for 8,192 tokens.
_LONGEST_IN_ONNX_RUNTIME = 4096
_BATCH = 8
_SENTENCES, _PARAGRAPHS = 64, 16

# `input_ids` and `attention_mask` `(batch, length)`.
Inputs = dict[str, np.ndarray]
Padded = Callable[[Inputs], Any]


def cases(
    lengths: Annotated[str, typer.Option(help="Comma-separated lengths of single texts, in tokens.")] = (
        "16,128,512,2048,8192"
    ),
    mixed: Annotated[bool, typer.Option(help="Also 8 texts of 20 to 512 tokens.")] = True,
    real: Annotated[
        bool, typer.Option(help="Also the lengths of 64 sentences of JSTS and 16 paragraphs of JaQuAD, from --data.")
    ] = True,
    shape: Shape = "base",
    dtype: Dtype = "float32",
    layers: Annotated[int | None, typer.Option(help="Layers of the encoder; by default all.", min=1)] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with tokenizer/*.model, JGLUE and JaQuAD; by default as for the table."),
    ] = None,
) -> Iterator[Case]:
    """Measure the encoder in this library, ONNX Runtime, OpenVINO and transformers on a CPU."""
    models = Models(shape, _VOCABULARY, layers, "cpu")
    texts = {f"1 × {length}": [length] for length in whole_numbers("--lengths", lengths)}
    if mixed:
        texts[f"{len(_MIXED)} texts of {min(_MIXED)} to {max(_MIXED)}"] = list(_MIXED)
    if real:
        texts[f"{_SENTENCES} sentences, {_PARAGRAPHS} paragraphs"] = real_lengths(data)
    with TemporaryDirectory() as temporary:
        ours = runners(models, dtype, Path(temporary))
        peers = padded_peers(models, dtype, Path(temporary))
        for name, row in texts.items():
            yield _case(name, models, dtype, row, ours, peers, Path(temporary) / "padded" / FOLDER / "model.onnx")


def real_lengths(data: Path | None) -> list[int]:
    """Numbers of tokens of sentences of JSTS and of paragraphs of JaQuAD."""
    found = find_data(data)
    if found is None:
        raise UsageError("real texts need --data or the environment variable of the table. Or give --no-real.")
    folder = Path(found.tokenizer).parent.parent
    sentences = [row["sentence1"] for _, row in read_json_lines(find(folder, "jsts-v1.3/valid-v1.3.json")[0])]
    articles = parse_json(read_text(find(folder, "jaquad*.json*")[0]), "jaquad")["data"]
    paragraphs = [paragraph["context"] for article in articles for paragraph in article["paragraphs"]]
    tokenizer = load_tokenizer(found.tokenizer)
    texts = [*sentences[:_SENTENCES], *paragraphs[:_PARAGRAPHS]]
    return [len(ids) for ids in tokenizer(texts)["input_ids"]]


def runners(models: Models, dtype: str, folder: Path) -> dict[str, Runner]:
    """This library's backends by name."""
    model = models.ours("float32").model
    model.config.architectures = ["ModernBertModel"]
    found: dict[str, Runner] = {}
    runtimes: tuple[Runtime, ...] = ("openvino", "onnx") if dtype == "float32" else ("openvino",)
    for runtime in runtimes:
        graph = folder / f"packed-{runtime}"
        export_graph(model, graph, runtime, "benchmark")
        found[f"{OURS}, {runtime}"] = OpenVinoRunner(graph, dtype) if runtime == "openvino" else OnnxRunner(graph)
    # A copy, since preparing replaces the layers.
    prepared = prepare_for_inference(copy.deepcopy(models.ours(dtype).model), getattr(torch, dtype))
    return {f"{OURS}, torch": TorchRunner(prepared), **found}


def padded_peers(models: Models, dtype: str, folder: Path) -> dict[str, Padded]:
    """The peers by name, each at its best settings."""
    import onnxruntime

    saved = folder / "padded"
    models.ours("float32").model.save_pretrained(saved, format="plain")
    (file,) = export_onnx(saved)[:1]
    peer = models.peer(dtype).model

    @torch.inference_mode()
    def transformers(inputs: Inputs) -> Any:
        return peer(**{name: torch.from_numpy(array) for name, array in inputs.items()}).last_hidden_state

    peers: dict[str, Padded] = {TRANSFORMERS: transformers}
    peers[PEER] = _openvino(file, dtype, "LATENCY").create_infer_request().infer
    if dtype == "float32":
        session = onnxruntime.InferenceSession(_optimized(file), providers=["CPUExecutionProvider"])
        peers[ONNX_RUNTIME] = lambda inputs: session.run(None, inputs)
    return peers


def _openvino(file: Path, dtype: str, hint: str) -> Any:
    import openvino

    precision = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    settings = {"PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": precision}
    return openvino.Core().compile_model(str(file), "CPU", settings)


def _optimized(file: Path) -> Path:
    """The graph after ONNX Runtime's transformer optimizer."""
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions("bert")
    # It fails for norms without a bias.
    options.enable_skip_layer_norm = False
    optimized = file.with_name("optimized.onnx")
    optimize_model(str(file), model_type="bert", optimization_options=options).save_model_to_file(str(optimized))
    return optimized


def _case(
    name: str,
    models: Models,
    dtype: str,
    lengths: Sequence[int],
    ours: Mapping[str, Runner],
    peers: Mapping[str, Padded],
    file: Path,
) -> Case:
    drawn = np.random.default_rng(0)
    rows = [drawn.integers(FIRST_WORD, models.config.vocab_size, length) for length in lengths]
    candidates: dict[str, Candidate] = {}
    for peer, compute in peers.items():
        candidates[peer] = _padded_candidate(compute, rows, 1)
        if len(rows) > 1:
            candidates[f"{peer}, sorted batches of {_BATCH}"] = _padded_candidate(compute, rows, _BATCH)
    if len(rows) > 1:
        candidates[SEVERAL] = _queued_candidate(file, dtype, rows)
    for runner, backend in ours.items():
        # As load_encoder: graphs pad global attention to the longest text of a batch.
        padding = 0.0 if isinstance(backend, TorchRunner) else padding_cost(models.config)
        candidates[runner] = _packed_candidate(backend, rows, padding)
    if max(lengths) > _LONGEST_IN_ONNX_RUNTIME:
        candidates = {name: run for name, run in candidates.items() if "onnx" not in name.lower()}
    settings = {**models.settings, "dtype": dtype, "texts": len(rows), "tokens": sum(lengths)}
    return Case(f"runtimes, {name}, {dtype}", "tokens", PEER, candidates, settings)


def _padded(rows: Sequence[np.ndarray], size: int) -> list[Inputs]:
    """Batches of texts, sorted by length and padded to the longest."""
    ordered = sorted(rows, key=len)
    batches = []
    for start in range(0, len(ordered), size):
        part = ordered[start : start + size]
        mask = (np.arange(len(part[-1])) < np.array([len(row) for row in part])[:, None]).astype(np.int64)
        ids = np.zeros_like(mask)
        ids[mask.astype(bool)] = np.concatenate(part)
        batches.append({"input_ids": ids, "attention_mask": mask})
    return batches


def _padded_candidate(compute: Padded, rows: Sequence[np.ndarray], size: int) -> Candidate:
    batches = _padded(rows, size)

    def run(turn: int) -> float:
        for batch in batches:
            compute(batch)
        return float(sum(len(row) for row in rows))

    return run


def _queued_candidate(file: Path, dtype: str, rows: Sequence[np.ndarray]) -> Candidate:
    import openvino

    queue = openvino.AsyncInferQueue(_openvino(file, dtype, "THROUGHPUT"))
    batches = _padded(rows, 1)[::-1]

    def run(turn: int) -> float:
        for batch in batches:
            queue.start_async(batch)
        queue.wait_all()
        return float(sum(len(row) for row in rows))

    return run


def _packed_candidate(runner: Runner, rows: Sequence[np.ndarray], padding: float) -> Candidate:
    places = list(split([len(row) for row in rows], _TOKENS_PER_BATCH, padding))
    batches = [pack([rows[place] for place in batch], batch) for batch in places]

    def run(turn: int) -> float:
        for batch in batches:
            runner.run(batch.input_ids, batch.cu_seqlens)
        return float(sum(len(row) for row in rows))

    return run

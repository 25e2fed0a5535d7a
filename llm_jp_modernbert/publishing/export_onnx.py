"""A masked language model as ONNX, which onnxruntime runs without torch."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.loading import load_masked_lm, load_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

FOLDER = "onnx"
TOLERANCE = 1e-3
"""How far logits in onnxruntime may be from those of torch."""
LEAST_AGREEMENT = 0.5
"""The share of masked tokens for which int8 must give the same first candidate as float32."""

INPUTS, OUTPUTS = ("input_ids", "attention_mask"), ("logits", "last_hidden_state")

# Batch, tokens, and how many the last row is shorter by. The window of local layers is passed in most of them.
_SHAPES = ((1, 7, 0), (2, 130, 0), (1, 600, 0), (3, 33, 20), (2, 300, 170))
# A protocol buffer holds 2 GB; weights of a larger model stand in a file of their own.
_LARGEST_FILE = 1_900_000_000
# Every so many of the fill-mask test's prompts are enough to see what int8 does.
_PROMPT_STEP = 4


def export_onnx(folder: Path, int8: bool = False, tell: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Writes `onnx/model.onnx` beside a saved masked language model, and compares it with torch.

    Its inputs are `input_ids` and `attention_mask`, int64 `(batch, length)` of any size; its outputs `logits`
    `(batch, length, vocabulary)` and `last_hidden_state` `(batch, length, hidden)`, float32. The same model gives the
    same bytes.

    Args:
        folder: a checkpoint of `save_pretrained` in either format; for int8 with its tokenizer.
        int8: whether to write `onnx/model_int8.onnx` as well, with weights in 8 bits (dynamic quantisation).
        tell: is told in a line what was found of each file.

    Returns:
        The files: those, and `.data` beside each where a model is too large for one file.

    Raises:
        UsageError: a package is missing; no masked language model; logits that are further than 1e-3 from torch's;
            or int8 weights that change every second prediction. Nothing is written then.
    """
    ort = _onnxruntime()
    model = load_masked_lm(str(folder), dtype="float32", device="cpu")
    with tempfile.TemporaryDirectory(prefix=".onnx-", dir=folder) as aside:
        file, quantized = Path(aside) / "model.onnx", Path(aside) / "model_int8.onnx"
        _export(_plain(model), file)
        session = _session(ort, file)
        difference = largest_difference(session, model)
        if not difference <= TOLERANCE:
            raise UsageError(f"{FOLDER}/{file.name}: logits are {difference:.0e} from torch's, more than {TOLERANCE}.")
        longest = max(length for _, length, _ in _shapes(model))
        tell(f"{FOLDER}/{file.name}: logits within {difference:.0e} of torch's, up to {longest} tokens")
        if int8:
            _quantize(file, quantized)
            same, masks = agreement(session, _session(ort, quantized), folder)
            found = f"the first candidate is that of float32 for {same} of {masks} masks"
            if same < LEAST_AGREEMENT * masks:
                raise UsageError(f"{FOLDER}/{quantized.name}: {found}. Export it without int8.")
            tell(f"{FOLDER}/{quantized.name}: {found}")
        (folder / FOLDER).mkdir(exist_ok=True)
        return [path.replace(folder / FOLDER / path.name) for path in sorted(Path(aside).iterdir())]


def largest_difference(session: Any, model: PreTrainedModel) -> float:
    """The largest difference between logits in onnxruntime and in torch, over batches of several shapes.

    Args:
        session: an `onnxruntime.InferenceSession`.
        model: the masked language model that it was made from.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    differences = []
    for batch, length, missing in _shapes(model):
        ids = torch.randint(model.config.vocab_size, (batch, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[-1, length - missing :] = 0
        with torch.inference_mode():
            expected = model(input_ids=ids, attention_mask=mask).logits
        logits, hidden = session.run(list(OUTPUTS), {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        if hidden.shape != (batch, length, model.config.hidden_size):
            return float("inf")
        differences.append(np.abs(logits - expected.numpy())[mask.bool().numpy()].max())
    return float(np.max(differences))


def agreement(first: Any, second: Any, folder: Path) -> tuple[int, int]:
    """How often two sessions have the same first candidate for a mask, and the number of masks.

    Args:
        first, second: `onnxruntime.InferenceSession`s of one model.
        folder: the model, with its tokenizer.
    """
    from llm_jp_modernbert.evaluation.tasks.fill_mask import PROMPTS
    from llm_jp_modernbert.inference.fill_mask import with_mask_token

    tokenizer = load_tokenizer(str(folder))
    same = masks = 0
    for line in PROMPTS.read_text(encoding="utf-8").splitlines()[::_PROMPT_STEP]:
        encoded = tokenizer(with_mask_token(json.loads(line)["text"], str(tokenizer.mask_token)), return_tensors="np")
        inputs = {name: encoded[name].astype(np.int64) for name in INPUTS}
        places = inputs["input_ids"] == tokenizer.mask_token_id
        best, other = (session.run(["logits"], inputs)[0][places].argmax(-1) for session in (first, second))
        same += int((best == other).sum())
        masks += len(best)
    return same, masks


def _onnxruntime() -> Any:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "the ONNX export needs onnx, onnxscript and onnxruntime: pip install 'llm-jp-modernbert[onnx]'."
        ) from error
    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


def _session(ort: Any, file: Path) -> Any:
    return ort.InferenceSession(file, providers=["CPUExecutionProvider"])


def _shapes(model: PreTrainedModel) -> Iterator[tuple[int, int, int]]:
    """The batches to compare, as far as the model reads them."""
    limit = model.config.max_position_embeddings
    return ((batch, min(length, limit), missing) for batch, length, missing in _SHAPES if missing < limit)


def _plain(model: PreTrainedModel) -> PreTrainedModel:
    """transformers' own model with the same weights: padded batches have no layout that depends on the data."""
    from transformers import ModernBertForMaskedLM

    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved, format="plain")
        return ModernBertForMaskedLM.from_pretrained(saved, attn_implementation="sdpa").eval()


def _export(model: Any, file: Path) -> None:
    import torch

    class LogitsAndHiddenStates(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            hidden = self.model.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return self.model.decoder(self.model.head(hidden)), hidden

    # Two tensors: of one, given twice, the exporter would make one input.
    examples = (torch.ones(2, 16, dtype=torch.long), torch.ones(2, 16, dtype=torch.long))
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    with _quietly():
        program = torch.onnx.export(
            LogitsAndHiddenStates().eval(),
            examples,
            dynamo=True,
            verbose=False,
            input_names=INPUTS,
            output_names=OUTPUTS,
            dynamic_shapes=(axes, axes),
        )
        assert program is not None
        _forget_origin(program.model)
        size = sum(parameter.nbytes for parameter in model.parameters())
        program.save(file, external_data=size > _LARGEST_FILE)


def _forget_origin(model: Any) -> None:
    """Drops what torch notes about the source of every node: paths of this machine, other ones on another."""
    for graph in (model.graph, *model.functions.values()):
        for node in graph.all_nodes():
            node.doc_string = None
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()
        for value in (*graph.inputs, *getattr(graph, "initializers", {}).values()):
            value.metadata_props.clear()
        graph.metadata_props.clear()
    model.metadata_props.clear()


def _quantize(file: Path, quantized: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    large = file.with_name(f"{file.name}.data").exists()
    with _quietly(), tempfile.TemporaryDirectory() as aside:
        # Else the vocabulary matrix, which is the embeddings transposed, would be made float32 again in every run.
        prepared = Path(aside) / file.name
        quant_pre_process(file, prepared, skip_symbolic_shape=True, save_as_external_data=large)
        quantize_dynamic(
            prepared,
            quantized,
            per_channel=True,
            # Weights of 7 bits: on processors without VNNI, sums of 8 bits overflow.
            reduce_range=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=large,
        )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what the exporters have to say about the packages that they did not find."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)

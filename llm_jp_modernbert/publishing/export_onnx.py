"""Exports masked language models to ONNX, for onnxruntime without torch."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.loading import load_masked_lm, load_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

FOLDER = "onnx"
TOLERANCE = 1e-3
"""Largest allowed difference between logits in onnxruntime and in torch."""
LEAST_AGREEMENT = 0.5
"""Least share of masked tokens for which int8 and float32 have the same first candidate."""

LARGEST_FILE = 1_900_000_000
"""Largest size in bytes of weights in the `.onnx` file itself: a protocol buffer holds at most 2 GB."""

INPUTS, OUTPUTS = ("input_ids", "attention_mask"), ("logits", "last_hidden_state")

# Batch size, length, and padding of the last row. Most lengths exceed the window of local attention.
_SHAPES = ((1, 7, 0), (2, 130, 0), (1, 600, 0), (3, 33, 20), (2, 300, 170))
# int8 is tested on every fourth prompt of the fill-mask test.
_PROMPT_STEP = 4


def export_onnx(folder: Path, int8: bool = False) -> list[Path]:
    """Writes `onnx/model.onnx` into the directory of a masked language model, and compares its logits with torch.

    The inputs are `input_ids` and `attention_mask`, int64 `(batch, length)` of any size. The outputs are float32
    `logits` `(batch, length, vocabulary)` and `last_hidden_state` `(batch, length, hidden)`. Exporting the same model
    twice gives the same bytes.

    Args:
        folder: a saved model in either format; int8 also needs its tokenizer.
        int8: whether to write `onnx/model_int8.onnx` too, with int8 weights (dynamic quantization).

    Returns:
        The written files, including a `.data` file for each model that exceeds 2 GB.

    Raises:
        UsageError: a package is missing; the folder holds no masked language model; logits differ from torch's by more
            than 1e-3; or int8 changes more than half of the predictions. Nothing is written then.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "the ONNX export needs onnx, onnxscript and onnxruntime: pip install 'llm-jp-modernbert[onnx]'."
        ) from error
    onnxruntime.set_default_logger_severity(3)
    model = load_masked_lm(str(folder), dtype="float32", device="cpu")
    with tempfile.TemporaryDirectory(prefix=".onnx-", dir=folder) as temporary:
        file, quantized = Path(temporary) / "model.onnx", Path(temporary) / "model_int8.onnx"
        _export(model, file)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        difference = largest_difference(session, model)
        if not difference <= TOLERANCE:
            raise UsageError(
                f"{FOLDER}/{file.name}: logits differ from torch's by {difference:.0e}, more than {TOLERANCE}."
            )
        logger.info("%s/%s: logits differ from torch's by at most %.0e", FOLDER, file.name, difference)
        if int8:
            _quantize(file, quantized)
            int8_session = onnxruntime.InferenceSession(quantized, providers=["CPUExecutionProvider"])
            same, masks = agreement(session, int8_session, folder)
            result = f"{FOLDER}/{quantized.name}: same first candidate as float32 for {same} of {masks} masks"
            if same < LEAST_AGREEMENT * masks:
                raise UsageError(f"{result}. Export without int8.")
            logger.info(result)
        (folder / FOLDER).mkdir(exist_ok=True)
        return [path.replace(folder / FOLDER / path.name) for path in sorted(Path(temporary).iterdir())]


def largest_difference(session: Any, model: PreTrainedModel) -> float:
    """The largest absolute difference of logits in onnxruntime and in torch, over batches of several shapes."""
    import torch

    generator = torch.Generator().manual_seed(0)
    differences = []
    limit = model.config.max_position_embeddings
    for batch, longest, padding in _SHAPES:
        length = min(longest, limit)
        if padding >= length:
            continue
        ids = torch.randint(model.config.vocab_size, (batch, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[-1, length - padding :] = 0
        with torch.inference_mode():
            expected = model(input_ids=ids, attention_mask=mask).logits
        logits, hidden = session.run(list(OUTPUTS), {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        if hidden.shape != (batch, length, model.config.hidden_size):
            return float("inf")
        differences.append(np.abs(logits - expected.numpy())[mask.bool().numpy()].max())
    return float(np.max(differences))


def agreement(first: Any, second: Any, folder: Path) -> tuple[int, int]:
    """Counts the masks of the fill-mask test for which two sessions have the same first candidate, and all masks."""
    from llm_jp_modernbert.evaluation.tasks.fill_mask import PROMPTS
    from llm_jp_modernbert.inference.fill_mask import with_mask_token

    tokenizer = load_tokenizer(str(folder))
    same = masks = 0
    for line in PROMPTS.read_text(encoding="utf-8").splitlines()[::_PROMPT_STEP]:
        encoded = tokenizer(with_mask_token(json.loads(line)["text"], str(tokenizer.mask_token)), return_tensors="np")
        inputs = {name: encoded[name].astype(np.int64) for name in INPUTS}
        is_mask = inputs["input_ids"] == tokenizer.mask_token_id
        ours, theirs = (session.run(["logits"], inputs)[0][is_mask].argmax(-1) for session in (first, second))
        same += int((ours == theirs).sum())
        masks += len(ours)
    return same, masks


def _export(source: PreTrainedModel, file: Path) -> None:
    import torch
    from transformers import ModernBertForMaskedLM

    # transformers' class computes on padded batches, whose shapes can be exported.
    with tempfile.TemporaryDirectory() as saved:
        source.save_pretrained(saved, format="plain")
        model: Any = ModernBertForMaskedLM.from_pretrained(saved, attn_implementation="sdpa").eval()

    class LogitsAndHiddenStates(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            hidden = self.model.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return self.model.decoder(self.model.head(hidden)), hidden

    # Two separate tensors: the exporter merges inputs that are the same tensor.
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
        _remove_metadata(program.model)
        size = sum(parameter.nbytes for parameter in model.parameters())
        program.save(file, external_data=size > LARGEST_FILE)


def _remove_metadata(model: Any) -> None:
    """Removes torch's notes on the origin of every node, which contain paths of this machine."""
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
    with _quietly(), tempfile.TemporaryDirectory() as temporary:
        # Without it, the decoder (the transposed embeddings) is converted back to float32 in every run.
        prepared = Path(temporary) / file.name
        quant_pre_process(file, prepared, skip_symbolic_shape=True, save_as_external_data=large)
        quantize_dynamic(
            prepared,
            quantized,
            per_channel=True,
            # 7-bit weights: without VNNI, 8-bit sums overflow.
            reduce_range=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=large,
        )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silences the exporters' warnings about optional packages."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)

"""Exports models with any head to ONNX, for onnxruntime without torch."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import read_config
from llm_jp_modernbert.inference.graphs.exporters import (
    LARGEST_FILE,
    quiet_exporters,
    remove_metadata,
    rename_weights,
    weights_file,
)
from llm_jp_modernbert.inference.heads import (
    ENCODER,
    MASKED_LM,
    MULTIPLE_CHOICE,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    Head,
    head_of,
)
from llm_jp_modernbert.inference.loading import load_model, load_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

FOLDER = "onnx"
TOLERANCE = 1e-3
"""Largest allowed difference between outputs in onnxruntime and in torch."""
MOST_CHANGED = 0.005
"""Largest share of predictions in which int8 differs from float32."""

INPUTS = ("input_ids", "attention_mask")

# Batch size, length, and padding of the last row. Most lengths exceed the window of local attention.
_SHAPES = ((1, 7, 0), (2, 130, 0), (1, 600, 0), (3, 33, 20), (2, 300, 170))
_CHOICES = 3


def output_names(head: Head) -> tuple[str, ...]:
    """Names of the outputs of an ONNX file: those of the head, and the hidden states of a masked language model."""
    return (*head.outputs, "last_hidden_state") if head is MASKED_LM else head.outputs


def export_onnx(folder: Path, int8: bool = False) -> list[Path]:
    """Writes `onnx/model.onnx` into the directory of a model, and compares its outputs with torch.

    The inputs are `input_ids` and `attention_mask`, int64 `(batch, length)` of any size, or `(batch, choices, length)`
    for multiple choice. The outputs are float32 and have transformers' names and shapes: `logits`; `start_logits` and
    `end_logits`; or `last_hidden_state`, which a masked language model has in addition to `logits`. Exporting the same
    model twice gives the same bytes.

    For a sentence-transformers model this is the encoder, as its `backend="onnx"` expects, which computes pooling and
    later modules itself.

    Args:
        folder: a saved model in either format; int8 also needs its tokenizer.
        int8: whether to write `onnx/model_int8.onnx` too, with int8 weights (dynamic quantization).

    Returns:
        The written files, including an `.onnx_data` file for each model that exceeds 2 GB.

    Raises:
        UsageError: a package is missing; the folder holds no model; outputs differ from torch's by more than 1e-3; or
            int8 changes more than 0.5 % of the predictions. Nothing is written then.
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
    model = load_model(str(folder), dtype="float32", device="cpu")
    with tempfile.TemporaryDirectory(prefix=".onnx-", dir=folder) as temporary:
        file, quantized = Path(temporary) / "model.onnx", Path(temporary) / "model_int8.onnx"
        _export(model, file)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        difference = largest_difference(session, model)
        if not difference <= TOLERANCE:
            raise UsageError(
                f"{FOLDER}/{file.name}: outputs differ from torch's by {difference:.0e}, more than {TOLERANCE}."
            )
        logger.info("%s/%s: outputs differ from torch's by at most %.0e", FOLDER, file.name, difference)
        if int8:
            _quantize(file, quantized)
            int8_session = onnxruntime.InferenceSession(quantized, providers=["CPUExecutionProvider"])
            changed, count = changes(session, int8_session, folder)
            result = (
                f"{FOLDER}/{quantized.name}: int8 changes {changed} of {count} predictions ({changed / count:.2%}) on "
                "the texts of the fill-mask test"
            )
            if changed > MOST_CHANGED * count:
                limit = f"at most {int(MOST_CHANGED * count)} ({MOST_CHANGED:.1%}) may change"
                raise UsageError(f"{result}; {limit}. Export this model without int8.")
            logger.info(result)
        (folder / FOLDER).mkdir(exist_ok=True)
        return [path.replace(folder / FOLDER / path.name) for path in sorted(Path(temporary).iterdir())]


def largest_difference(session: Any, model: PreTrainedModel) -> float:
    """The largest absolute difference of outputs in onnxruntime and in torch, over batches of several shapes."""
    import torch

    head = head_of(model.config.to_dict())
    generator = torch.Generator().manual_seed(0)
    differences = []
    limit = model.config.max_position_embeddings
    for batch, longest, padding in _SHAPES:
        length = min(longest, limit)
        if padding >= length:
            continue
        shape = (batch, _CHOICES, length) if head is MULTIPLE_CHOICE else (batch, length)
        ids = torch.randint(model.config.vocab_size, shape, generator=generator)
        mask = torch.ones_like(ids)
        mask[-1, ..., length - padding :] = 0
        with torch.inference_mode():
            expected = _outputs(model, head, ids, mask)
        outputs = session.run(list(output_names(head)), {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        for output, tensor in zip(outputs, expected, strict=True):
            if output.shape != tuple(tensor.shape):
                return float("inf")
            # Outputs of padding have no meaning.
            rows = slice(None) if head.pools else mask.bool().numpy()
            differences.append(np.abs(output[rows] - tensor.numpy()[rows]).max())
    return float(np.max(differences))


def changes(first: Any, second: Any, folder: Path) -> tuple[int, int]:
    """Counts the predictions in which two sessions differ, and all predictions, on the texts of the fill-mask test.

    A prediction is the first candidate of a mask, the best or each assigned label, the first or last token of an
    answer, the best choice, whether a score exceeds that of the text before, or which text has the closest embedding.
    """
    from llm_jp_modernbert.evaluation.tasks.fill_mask import PROMPTS

    tokenizer, config = load_tokenizer(str(folder)), read_config(folder)
    head = head_of(config)
    lines = PROMPTS.read_text(encoding="utf-8").splitlines()
    batches = list(_encoded([json.loads(line)["text"] for line in lines], tokenizer, head))
    decisions = [_decisions(session, batches, tokenizer.mask_token_id, head, config) for session in (first, second)]
    changed = int(sum((ours != theirs).sum() for ours, theirs in zip(*decisions, strict=True)))
    return changed, sum(ours.size for ours in decisions[0])


def _encoded(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, head: Head) -> Iterator[dict[str, np.ndarray]]:
    """Texts as inputs of a head: single ones, or with the next text as context, or with the next texts as choices."""
    from llm_jp_modernbert.inference.fill_mask import with_mask_token

    texts = [with_mask_token(text, str(tokenizer.mask_token) if head is MASKED_LM else "") for text in texts]
    for number, text in enumerate(texts):
        others = [texts[(number + distance) % len(texts)] for distance in range(1, _CHOICES + 1)]
        if head is MULTIPLE_CHOICE:
            encoded = tokenizer([text] * _CHOICES, others, padding=True, truncation=True, return_tensors="np")
            yield {name: encoded[name].astype(np.int64)[None] for name in INPUTS}
        else:
            pair = others[0] if head is QUESTION_ANSWERING else None
            encoded = tokenizer(text, pair, truncation=True, return_tensors="np")
            yield {name: encoded[name].astype(np.int64) for name in INPUTS}


def _decisions(
    session: Any, batches: Sequence[dict[str, np.ndarray]], mask_token: int, head: Head, config: Mapping[str, Any]
) -> list[np.ndarray]:
    """The predictions of a session on each batch, as arrays."""
    outputs = [session.run(list(head.outputs), batch) for batch in batches]
    if head is MASKED_LM:
        masks = [batch["input_ids"] == mask_token for batch in batches]
        return [logits[mask].argmax(-1) for (logits,), mask in zip(outputs, masks, strict=True)]
    if head is ENCODER:
        means = np.stack([hidden[0].mean(0) for (hidden,) in outputs])
        means /= np.linalg.norm(means, axis=-1, keepdims=True)
        return [(means @ means.T - 2 * np.eye(len(means))).argmax(-1)]
    if head is SEQUENCE_CLASSIFICATION:
        logits = np.concatenate([output for (output,) in outputs])
        if config.get("problem_type") == "multi_label_classification":
            return [logits > 0]
        if logits.shape[-1] == 1:
            return [np.diff(logits[:, 0]) > 0]
    return [values.argmax(-1) for row in outputs for values in row]


def _outputs(model: Any, head: Head, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[Any, ...]:
    """The outputs of a model in the order of `output_names`."""
    if head is MASKED_LM:
        hidden = model.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return model.decoder(model.head(hidden)), hidden
    output = model(input_ids=input_ids, attention_mask=attention_mask)
    return tuple(output[name] for name in head.outputs)


def _export(source: PreTrainedModel, file: Path) -> None:
    import torch
    import transformers

    head = head_of(source.config.to_dict())
    # transformers' class computes on padded batches, whose shapes can be exported.
    with tempfile.TemporaryDirectory() as saved:
        source.save_pretrained(saved, format="plain")
        model_class = getattr(transformers, f"ModernBert{head.suffix}")
        model: Any = model_class.from_pretrained(saved, attn_implementation="sdpa").eval()

    class Outputs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[Any, ...]:
            return _outputs(self.model, head, input_ids, attention_mask)

    names = ("batch", "choices", "length") if head is MULTIPLE_CHOICE else ("batch", "length")
    shape = (2, _CHOICES, 16) if head is MULTIPLE_CHOICE else (2, 16)
    # Two separate tensors: the exporter merges inputs that are the same tensor.
    examples = (torch.ones(*shape, dtype=torch.long), torch.ones(*shape, dtype=torch.long))
    axes = {number: torch.export.Dim(name) for number, name in enumerate(names)}
    with quiet_exporters():
        program = torch.onnx.export(
            Outputs().eval(),
            examples,
            dynamo=True,
            verbose=False,
            input_names=INPUTS,
            output_names=output_names(head),
            dynamic_shapes=(axes, axes),
        )
        assert program is not None
        remove_metadata(program.model)
        size = sum(parameter.nbytes for parameter in model.parameters())
        program.save(file, external_data=size > LARGEST_FILE)
        rename_weights(file)


def _quantize(file: Path, quantized: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    large = weights_file(file).exists()
    with quiet_exporters(), tempfile.TemporaryDirectory() as temporary:
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
        rename_weights(quantized)

"""Check of a staged release: transformers alone loads it, computes the source's logits, and fills masks."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from llm_jp_modernbert.core.clean_process import reload_alone
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.model_cards.facts import Example

from . import staging

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llm_jp_modernbert.modeling.modeling_llm_jp_modernbert import LlmJpModernBertForMaskedLM

# Allowed difference of logits, as a share of the largest logit: floating-point sums in another order.
_TOLERANCE = 1e-3
# Tokens in the longest row on which logits are compared.
_LONG_ROW = 1024
_TOP = 3


def check(
    model: LlmJpModernBertForMaskedLM, tokenizer: PreTrainedTokenizerBase, folder: Path, format: str
) -> tuple[list[Example], float]:
    """Loads a staged model in a process without this package, fills masks, and compares logits with the source's.

    Args:
        model: the source model.
        tokenizer: its tokenizer.
        folder: the staged model.
        format: format of the staged model, `plain` or `native`.

    Returns:
        The filled masks, and the largest absolute difference of logits.

    Raises:
        UsageError: transformers cannot load the model, or its logits differ.
    """
    import torch
    from safetensors.torch import load_file

    texts = staging.everyday_masks()
    rows = [tokenizer(text.replace("[MASK]", str(tokenizer.mask_token)))["input_ids"] for text in texts]
    longest = min(_LONG_ROW, tokenizer.model_max_length, model.config.max_position_embeddings)
    inner = [token for row in rows for token in row[1:-1]]
    repeated = inner * (longest // len(inner) + 1)
    rows.append([rows[0][0], *repeated[: longest - 2], rows[0][-1]])
    with TemporaryDirectory() as temporary:
        file = Path(temporary) / "logits.safetensors"
        answers = reload_alone(folder, texts, _TOP, rows, file, custom_code=format == "native")["answers"]
        released = load_file(file)
    largest = 0.0
    for number, row in enumerate(rows):
        with torch.inference_mode():
            expected = model(input_ids=torch.tensor([row])).logits[0].float()
        logits = released[f"row-{number}"]
        if logits.shape != expected.shape:
            raise UsageError(
                f"{folder}: the release has logits of shape {tuple(logits.shape)}, not {tuple(expected.shape)}."
            )
        difference = float((logits - expected).abs().max())
        if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
            raise UsageError(
                f"{folder}: on {len(row):,} tokens the release's logits are up to {difference:.3g} off the source's. "
                "Nothing was uploaded."
            )
        largest = max(largest, difference)
    examples = [
        # A token of whitespace is shown as in the vocabulary.
        Example(text, [(candidate["token_str"].strip() or "▁", candidate["score"]) for candidate in candidates])
        for text, candidates in zip(texts, answers, strict=True)
    ]
    return examples, largest

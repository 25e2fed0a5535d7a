"""The proof of a release: transformers alone loads it, computes what the source computes, and fills masks."""

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

# Differences of logits that other orders of summing explain, as a share of the largest logit.
_TOLERANCE = 1e-3
# Tokens of the longest row on which logits are compared.
_LONG_ROW = 1024
_TOP = 3


def check(
    model: LlmJpModernBertForMaskedLM, tokenizer: PreTrainedTokenizerBase, folder: Path, format: str
) -> tuple[list[Example], float]:
    """Loads a staged model in a clean process, fills masks with it, and compares its logits with the source's.

    Args:
        model: the source.
        tokenizer: its tokenizer.
        folder: the staged model.
        format: in which it was staged.

    Returns:
        The filled masks, and the greatest difference of logits.

    Raises:
        UsageError: transformers cannot use it, or it computes something else.
    """
    import torch
    from safetensors.torch import load_file

    texts = staging.everyday_masks()
    rows = [tokenizer(text.replace("[MASK]", str(tokenizer.mask_token)))["input_ids"] for text in texts]
    longest = min(_LONG_ROW, tokenizer.model_max_length, model.config.max_position_embeddings)
    inner = [token for row in rows for token in row[1:-1]]
    repeated = inner * (longest // len(inner) + 1)
    rows.append([rows[0][0], *repeated[: longest - 2], rows[0][-1]])
    with TemporaryDirectory() as aside:
        file = Path(aside) / "logits.safetensors"
        answers = reload_alone(folder, texts, _TOP, rows, file, custom_code=format == "native")["answers"]
        theirs = load_file(file)
        difference = 0.0
        for number, row in enumerate(rows):
            with torch.inference_mode():
                ours = model(input_ids=torch.tensor([row])).logits[0].float()
            found = theirs[f"row-{number}"]
            if found.shape != ours.shape:
                raise UsageError(f"{folder}: the release has logits {tuple(found.shape)}, not {tuple(ours.shape)}.")
            gap = float((found - ours).abs().max())
            if not gap <= _TOLERANCE * max(1.0, float(ours.abs().max())):
                raise UsageError(
                    f"{folder}: on {len(row):,} tokens the release's logits are up to {gap:.3g} off the source's. "
                    "Nothing was sent."
                )
            difference = max(difference, gap)
    examples = [
        # A blank by itself is shown as vocabularies write it.
        Example(text, [(one["token_str"].strip() or "▁", one["score"]) for one in found])
        for text, found in zip(texts, answers, strict=True)
    ]
    return examples, difference

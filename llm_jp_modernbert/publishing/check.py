"""Checks that a staged release computes the same as its source, in a process without this package."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.clean_process import reload_alone
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import read_config
from llm_jp_modernbert.core.plain_reload import embeddings_of, outputs_of
from llm_jp_modernbert.inference.heads import MASKED_LM, MULTIPLE_CHOICE, Head
from llm_jp_modernbert.model_cards.facts import Example, Exports, ModelFacts
from llm_jp_modernbert.model_cards.usage import snippets

from . import staging

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

# Allowed difference of outputs, as a share of the largest output: floating-point sums in another order.
_TOLERANCE = 1e-3
# Tokens in the longest row on which outputs are compared.
_LONG_ROW = 1024
_CHOICES = 3
_TOP = 3


@dataclass(frozen=True)
class Source:
    """A loaded model that is released.

    Attributes:
        model: the model in float32.
        embedder: the same directory as loaded by sentence-transformers, if it is a model of that library.
    """

    head: Head
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    embedder: Any = None


@dataclass(frozen=True)
class Checked:
    """Result of the check.

    Attributes:
        examples: masks filled by a masked language model.
        outputs: what the usage snippets of the card print, by title.
        difference: largest absolute difference between the outputs of the release and of the source.
    """

    examples: Sequence[Example] = ()
    outputs: Mapping[str, str] = field(default_factory=dict)
    difference: float = 0.0


def check(source: Source, folder: Path, format: str, exports: Exports) -> Checked:
    """Loads a staged model in a process without this package, compares its outputs, and runs its card's examples.

    Args:
        source: the model that was staged.
        folder: the staged release.
        format: `plain` or `native`, which needs its own code.
        exports: additional formats in the release.

    Raises:
        UsageError: the release cannot be loaded, its outputs differ from the source's, or an example fails.
    """
    from safetensors.torch import load_file

    masked = staging.everyday_masks()
    texts = [text.replace("[MASK]", "") for text in masked]
    # A sparse model weights tokens: it no longer fills masks.
    is_masked_lm = source.head is MASKED_LM and exports.model_type != "SparseEncoder"
    rows = _rows(source, masked if is_masked_lm else texts)
    with TemporaryDirectory() as temporary:
        file = Path(temporary) / "outputs.safetensors"
        answer = reload_alone(
            folder,
            masked if is_masked_lm else (),
            _TOP,
            auto_class=source.head.auto_class,
            custom_code=format == "native",
            rows=rows,
            fields=source.head.outputs,
            embedder=None if source.embedder is None else type(source.embedder).__name__,
            texts=texts,
            tensors=file,
            programs=_programs(source, folder, exports),
        )
        released = load_file(file)
    expected = outputs_of(source.model, rows, source.head.outputs)
    if source.embedder is not None:
        expected |= embeddings_of(source.embedder, texts)
    difference = _largest_difference(folder, released, expected)
    for text, ids in zip(texts, answer["token_ids"], strict=True):
        if ids != source.tokenizer(text)["input_ids"]:
            raise UsageError(f"{folder}: transformers alone splits {text!r} into other tokens. Nothing was uploaded.")
    examples = [
        # A token of whitespace is shown as in the vocabulary.
        Example(text, [(candidate["token_str"].strip() or "▁", candidate["score"]) for candidate in candidates])
        for text, candidates in zip(masked, answer["answers"], strict=False)
    ]
    return Checked(examples, answer["printed"], difference)


def _rows(source: Source, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Inputs to compare: single texts, pairs of texts and a long row; for multiple choice, texts with choices."""
    tokenizer, limit = source.tokenizer, source.model.config.max_position_embeddings
    texts = [text.replace("[MASK]", str(tokenizer.mask_token)) for text in texts]
    longest = min(_LONG_ROW, tokenizer.model_max_length, limit)
    long_text = "".join(texts) * (longest // len(texts) + 1)
    batches: list[tuple[list[str], list[str] | None]]
    if source.head is MULTIPLE_CHOICE:
        batches = [
            ([text] * _CHOICES, texts[number : number + _CHOICES])
            for number, text in enumerate([*texts[:-_CHOICES], long_text])
        ]
    else:
        batches = [([text], None) for text in [*texts, long_text]]
        batches += [([first], [second]) for first, second in pairwise(texts)]
    rows = []
    for first, second in batches:
        encoded = tokenizer(first, second, truncation=True, max_length=longest, padding=len(first) > 1)
        row = {name: encoded[name] for name in ("input_ids", "attention_mask")}
        rows.append({name: [values] for name, values in row.items()} if source.head is MULTIPLE_CHOICE else row)
    return rows


def _programs(source: Source, folder: Path, exports: Exports) -> dict[str, str]:
    """The usage snippets of a staged model's card that can run here, by title."""
    programs = {}
    facts = ModelFacts(
        folder.as_posix(),
        read_config(folder),
        tokenizer={"mask_token": source.tokenizer.mask_token},
        exports=exports,
        **staging.records(folder),
    )
    for snippet in snippets(facts):
        if missing := [name for name in snippet.requires if find_spec(name.replace("-", "_")) is None]:
            logger.info("The card's example %r is not run: it needs %s.", snippet.title, ", ".join(missing))
            continue
        programs[snippet.title] = snippet.code
    return programs


def _largest_difference(folder: Path, released: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    """The largest absolute difference between tensors of equal names; raises `UsageError` if one is too large."""
    largest = 0.0
    for name, tensor in expected.items():
        other = released[name]
        if other.shape != tensor.shape:
            raise UsageError(
                f"{folder}: the release's {name} have shape {tuple(other.shape)}, not {tuple(tensor.shape)}."
            )
        difference = float((other - tensor).abs().max())
        if not difference <= _TOLERANCE * max(1.0, float(tensor.abs().max())):
            raise UsageError(
                f"{folder}: the release's {name} are up to {difference:.3g} off the source's. Nothing was uploaded."
            )
        largest = max(largest, difference)
    return largest

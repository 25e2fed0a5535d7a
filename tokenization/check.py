"""Check that a tokenizer is correct, and that it fits a model."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from .layout import CLS, ENCODER_SETTINGS, MASK, MAX_LENGTH, PAD, SEP, SPACE, SPECIAL_TOKENS, UNK
from .tokenization_llm_jp import LlmJpTokenizer

# Ids in the published vocabularies, by vocabulary size.
_KNOWN_IDS: dict[int, tuple[str, dict[tuple[str, ...], list[int]]]] = {
    99574: ("v3.0", {("こんにちは",): [5, 39801, 6], ("foo", "bar"): [5, 19229, 6, 2852, 6]}),
    98452: ("v3.1", {("こんにちは",): [5, 38737, 6]}),
}

_TEXTS = (
    "今日のご飯はカレーである。",
    "The quick brown fox, 42 times.",
    " leading and trailing ",
    "\n一行目\n\n\t二行目\r\n",
    "𠮷野家で𩸽を食べる👨‍👩‍👧",
    "ＡＢＣ　ｱｲｳ①",
)
# A model's vocabulary may be padded to a multiple of this number of tokens.
_PADDING = 128


@dataclass(frozen=True)
class Check:
    """One property of a tokenizer.

    Attributes:
        name: name of the property.
        passed: whether the tokenizer has it.
        detail: the observed value.
    """

    name: str
    passed: bool
    detail: str


def check_tokenizer(tokenizer: LlmJpTokenizer, out_dir: str | os.PathLike[str]) -> list[Check]:
    """Checks a tokenizer and its saved form.

    Args:
        tokenizer: the tokenizer.
        out_dir: the directory that it was written to.

    Returns:
        One `Check` per property. Errors are not raised but returned as failed checks.
    """
    checks: list[tuple[str, Callable[[], tuple[bool, str]]]] = [
        ("special ids", lambda: _special_ids(tokenizer)),
        ("template", lambda: _template(tokenizer)),
        ("pair", lambda: _pair(tokenizer)),
        (
            "longest input",
            lambda: (tokenizer.model_max_length <= MAX_LENGTH, f"{tokenizer.model_max_length:,} tokens"),
        ),
        ("text around a mask", lambda: _mask(tokenizer)),
        ("round trip", lambda: _round_trip(tokenizer)),
        ("reload, plain AutoTokenizer", lambda: _reload_auto(tokenizer, Path(out_dir))),
        ("reload, tokenizers library", lambda: _reload_tokenizers(tokenizer, Path(out_dir))),
    ]
    if len(tokenizer) in _KNOWN_IDS:
        checks.append(("known ids", lambda: _known_ids(tokenizer)))
    return [_run(name, check) for name, check in checks]


def check_fits(tokenizer: PreTrainedTokenizerBase, config: Any) -> None:
    """Checks that a tokenizer and a model use the same ids.

    Args:
        tokenizer: the tokenizer.
        config: the configuration of the model: `vocab_size`, which may exceed the tokenizer's by up to 127, and
            optionally `pad_token_id`, `cls_token_id` and so on.

    Raises:
        ValueError: the vocabularies differ in size, or a special token has another id in the model.
    """
    names = f"The tokenizer {tokenizer.name_or_path or type(tokenizer).__name__}"
    model = getattr(config, "name_or_path", "") or "the model"
    tokens, rows = len(tokenizer), config.vocab_size
    if not tokens <= rows < tokens + _PADDING:
        raise ValueError(
            f"{names} has {tokens:,} tokens, but {model} has a vocabulary of {rows:,} (vocab_size). Use the model's "
            f"own tokenizer, or create a model with vocab_size={tokens}; after add_tokens, call "
            "model.resize_token_embeddings(len(tokenizer))."
        )
    for name in ("bos", "eos", "cls", "sep", "pad", "mask"):
        expected, actual = getattr(config, f"{name}_token_id", None), getattr(tokenizer, f"{name}_token_id", None)
        if expected is not None and actual is not None and expected != actual:
            raise ValueError(
                f"{names} has {name}_token_id={actual}, but {model} has {expected}. Use the model's own tokenizer, or "
                f"set {name}_token_id={actual} in the configuration."
            )


def match_length(tokenizer: PreTrainedTokenizerBase, config: Any) -> None:
    """Sets a tokenizer's `model_max_length` to the `max_position_embeddings` of the model that it is saved with."""
    tokenizer.model_max_length = config.max_position_embeddings


def _run(name: str, check: Callable[[], tuple[bool, str]]) -> Check:
    try:
        return Check(name, *check())
    except Exception as error:  # a broken file may raise anything
        return Check(name, False, f"{type(error).__name__}: {error}")


def _special_ids(tokenizer: LlmJpTokenizer) -> tuple[bool, str]:
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(SPECIAL_TOKENS))))
    roles = {role: token for role, token in ENCODER_SETTINGS.items() if role.endswith("_token")}
    passed = tuple(tokens) == SPECIAL_TOKENS and all(getattr(tokenizer, role) == roles[role] for role in roles)
    return passed, ", ".join(
        f"{name} {tokenizer.convert_tokens_to_ids(token)}"
        for name, token in (("unk", UNK), ("mask", MASK), ("pad", PAD), ("cls", CLS), ("sep", SEP))
    )


def _template(tokenizer: LlmJpTokenizer) -> tuple[bool, str]:
    text = _TEXTS[0]
    encoded = tokenizer(text)
    body = tokenizer(text, add_special_tokens=False).input_ids
    passed = encoded.input_ids == [5, *body, 6] and list(encoded) == ["input_ids", "attention_mask"]
    return passed, " ".join(tokenizer.convert_ids_to_tokens(encoded.input_ids))


def _pair(tokenizer: LlmJpTokenizer) -> tuple[bool, str]:
    first, second = (tokenizer(text, add_special_tokens=False).input_ids for text in _TEXTS[:2])
    encoded = tokenizer(*_TEXTS[:2], return_token_type_ids=True)
    types = [0] * (len(first) + 2) + [1] * (len(second) + 1)
    passed = encoded.input_ids == [5, *first, 6, *second, 6] and encoded.token_type_ids == types
    return passed, f"CLS A SEP B SEP, type ids 0 × {types.count(0)}, 1 × {types.count(1)}"


def _mask(tokenizer: LlmJpTokenizer) -> tuple[bool, str]:
    """Masking a piece in the text gives the same ids as masking its id."""
    text = _TEXTS[0]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded.input_ids, encoded.offset_mapping
    for position, (start, end) in enumerate(offsets):
        if offsets.count((start, end)) > 1 or tokenizer.convert_ids_to_tokens(ids[position]) == SPACE:
            continue  # a byte of a character, or the space before the text
        masked = text[:start] + MASK + text[end:]
        expected = [*ids[:position], tokenizer.mask_token_id, *ids[position + 1 :]]
        # A mask at the start also replaces the space before the text.
        if position == 1 and offsets[0][0] == 0 and start == 0:
            expected = expected[1:]
        actual = tokenizer(masked, add_special_tokens=False).input_ids
        if actual != expected:
            return False, f"{masked}: {' '.join(tokenizer.convert_ids_to_tokens(actual))}"
    return True, "a mask does not change the pieces around it"


def _round_trip(tokenizer: LlmJpTokenizer) -> tuple[bool, str]:
    failed = [text for text in _TEXTS if tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) != text]
    return not failed, f"not {failed[0]!r}" if failed else f"{len(_TEXTS)} texts: spaces, newlines, emoji, rare kanji"


def _reload_auto(tokenizer: LlmJpTokenizer, out_dir: Path) -> tuple[bool, str]:
    # Imported here: it imports torch, which a tokenizer does not need.
    from transformers import AutoTokenizer

    plain = AutoTokenizer.from_pretrained(out_dir)
    arguments: list[tuple[Any, ...]] = [(list(_TEXTS),), (list(_TEXTS), list(reversed(_TEXTS)))]
    same = all(dict(plain(*texts)) == dict(tokenizer(*texts)) for texts in arguments)
    settings = (*ENCODER_SETTINGS, "all_special_ids")
    differing = [name for name in settings if getattr(plain, name) != getattr(tokenizer, name)]
    passed = same and not differing and not isinstance(plain, LlmJpTokenizer)
    return passed, f"{type(plain).__name__}" + (f", differs in {', '.join(differing)}" if differing else "")


def _reload_tokenizers(tokenizer: LlmJpTokenizer, out_dir: Path) -> tuple[bool, str]:
    plain = Tokenizer.from_file(str(out_dir / "tokenizer.json"))
    same = all(plain.encode(text).ids == tokenizer(text).input_ids for text in _TEXTS)
    back = all(plain.decode(plain.encode(text).ids) == text for text in _TEXTS)
    size = (out_dir / "tokenizer.json").stat().st_size
    return same and back, f"tokenizer.json, {size:,} bytes"


def _known_ids(tokenizer: LlmJpTokenizer) -> tuple[bool, str]:
    version, expected = _KNOWN_IDS[len(tokenizer)]
    actual = {texts: tokenizer(*texts).input_ids for texts in expected}
    return actual == expected, f"{version}: " + ", ".join(
        f"{' + '.join(texts)} {ids}" for texts, ids in actual.items()
    )

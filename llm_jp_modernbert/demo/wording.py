"""The words of the interface in English and Japanese."""

from __future__ import annotations

from typing import Literal

Language = Literal["en", "ja"]

WORDING: dict[str, tuple[str, str]] = {
    "fill_mask": ("Fill masks", "穴埋め"),
    "fill_mask_about": (
        "Write `[MASK]` for a missing word. Click a candidate to insert it.",
        "隠したい語を `[MASK]` に置き換えた文を入力してください。候補をクリックすると文に入ります。",
    ),
    "text": ("Text", "テキスト"),
    "predict": ("Predict", "予測する"),
    "mask_number": ("Mask {number} of {count}", "{count} か所中 {number} か所目"),
    "examples": ("Examples", "入力例"),
    "empty": ("Enter a text first.", "テキストを入力してください。"),
    "too_many_characters": (
        "The text has {count:,} characters; the limit is {limit:,}. Shorten it.",
        "テキストが {count:,} 文字あり、上限の {limit:,} 文字を超えています。短くしてください。",
    ),
    "too_many_tokens": (
        "The text has {count:,} tokens; this model reads up to {limit:,}. Shorten it.",
        "テキストが {count:,} トークンあり、このモデルの上限 {limit:,} トークンを超えています。短くしてください。",
    ),
    "no_mask": (
        "The text has no mask. Write [MASK] for the word to predict.",
        "[MASK] がありません。予測したい語を [MASK] に置き換えてください。",
    ),
    "too_many_masks": (
        "The text has {count:,} masks; the limit is {limit}.",
        "[MASK] が {count:,} か所あり、上限の {limit} か所を超えています。",
    ),
    "changed": (
        "The text has changed since the prediction. Predict again, then choose.",
        "予測したあとにテキストが変更されました。もう一度予測してから候補を選んでください。",
    ),
    "surrogates": (
        "The text has characters that cannot be encoded. Copy it again from its source.",
        "テキストに不正な文字が含まれています。もう一度コピーし直してください。",
    ),
    "no_suitable_model": (
        "None of the models of this demo can do this.",
        "このデモのモデルは、この機能に対応していません。",
    ),
}
"""English and Japanese by key; `{…}` are filled in by `phrase`."""


def phrase(language: Language, key: str, **values: object) -> str:
    """A text of the interface in one language."""
    return WORDING[key][language == "ja"].format(**values)


def language_of(accepted: str) -> Language:
    """The language of a visitor: Japanese if the browser prefers it, else English.

    Args:
        accepted: value of the HTTP header Accept-Language.
    """
    return "ja" if accepted.strip().lower().startswith("ja") else "en"

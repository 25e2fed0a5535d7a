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
    "tokens": ("Tokens", "トークン"),
    "tokens_about": (
        "How each model splits the text: every token with its id and its offsets in the text.",
        "テキストがどのようにトークンへ分割されるかを、ID とテキスト内の位置とともに表示します。",
    ),
    "tokenize": ("Tokenize", "分割する"),
    "token_counts": ("{tokens:,} tokens, {characters:,} characters", "{tokens:,} トークン（{characters:,} 文字）"),
    "first_tokens": (". The first {count:,} are shown.", "。先頭の {count:,} トークンを表示しています。"),
    "model": ("Model", "モデル"),
    "search": ("Search", "検索"),
    "search_about": (
        "Finds the sentences of a document that are closest to a question. The model reads the whole document at "
        "once, so a sentence is understood in its context. Models trained for search find more.",
        "文書の中から、質問に最も近い文を探します。モデルは文書全体を一度に読むため、前後の文脈も考慮されます。"
        "検索向けに学習したモデルを使うと、より良い結果が得られます。",
    ),
    "document": ("Document", "文書"),
    "question": ("Question", "質問"),
    "find": ("Search", "検索する"),
    "best_sentences": (
        "The {count} best of {total:,} sentences",
        "全 {total:,} 文のうち、近いものから {count} 文",
    ),
    "heat_map": ("Perplexity", "パープレキシティ"),
    "heat_map_about": (
        "Each token is masked and predicted from all the others. The darker a token, the less the model expected it. "
        "Point at a token or tap it for its probability. Long texts take minutes without a GPU.",
        "トークンを一つずつ隠し、残りのテキストから予測させます。色が濃いほど、モデルにとって意外なトークンです。"
        "トークンにカーソルを合わせるかタップすると、確率が表示されます。長いテキストは、GPU がないと数分かかります。",
    ),
    "measure": ("Measure", "計算する"),
    "token_probability": (
        "{token}: {percentage:.3g}% (most probable: {best})",
        "{token}：{percentage:.3g}%（最有力の予測：{best}）",
    ),
    "pseudo_perplexity": ("Pseudo-perplexity {value:,.2f}", "疑似パープレキシティ {value:,.2f}"),
    "each_alone": (
        "The model read the text {passes:,} times, with one token masked each time.",
        "トークンを一つずつ隠しながら、テキストを {passes:,} 回読みました。",
    ),
    "several_masked": (
        "Masking each of the {tokens:,} tokens alone would take too long. The model read the text {passes:,} times, "
        "with every {passes:,}th token masked at once, so values are slightly higher.",
        "{tokens:,} トークンを一つずつ隠すと時間がかかりすぎるため、{passes:,} トークンおきにまとめて隠し、"
        "テキストを {passes:,} 回読みました。そのため、値はわずかに高くなります。",
    ),
    "similarity": ("Similarity", "類似度"),
    "similarity_about": (
        "Compares sentences with each other: the cosine of their vectors. Colours range from the least to the most "
        "similar pair.",
        "文と文の近さを、ベクトルのコサイン類似度で比べます。色の濃さは、最も遠い組から最も近い組までを表します。",
    ),
    "sentences": ("Sentences, one per line", "比べる文（1 行に 1 文）"),
    "compare": ("Compare", "比べる"),
    "number_of_sentences": (
        "Enter 2 to {limit} sentences, one per line; there are {count}.",
        "1 行に 1 文ずつ、2 ～ {limit} 文を入力してください（現在 {count} 文）。",
    ),
    "scores": ("Leaderboard", "リーダーボード"),
    "no_results": (
        "No results to show. Measure models with `llm-jp-modernbert evaluate`, then start the demo with "
        "`--results DIRECTORY`.",
        "表示できる評価結果がありません。`llm-jp-modernbert evaluate` でモデルを評価し、"
        "`--results ディレクトリ` を付けてデモを起動してください。",
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

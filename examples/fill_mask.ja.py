# %% [markdown]
# # マスクを埋め、トークナイザの動きを確かめる
#
# [![Colabで開く](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/ORG/llm-jp-modernbert/blob/main/examples/fill_mask.ja.ipynb)
#
# マスク言語モデルは、文の空欄に入るトークンを前後の文脈から予測します。事前学習の課題そのものなので、ラベル付きデータは不要です。答えを見れば、モデルが何を学んだかがわかります。
#
# ここでは、マスクを埋め、文がどのようなトークンに分かれるかを調べ、マスクの直後に空白があると正解の確率が下がる理由を確かめます。

# %%
# !pip show -q llm-jp-modernbert || pip install -q "llm-jp-modernbert[eval]"

# %% [markdown]
# ## モデルを用意する
#
# 公開モデルのパラメータ数は1億8,700万です。このノートブックを短時間で実行できるように、`quickstart`で約200万パラメータのモデルを学習します。学習データはやさしい日本語の文章34,000字で、CPUでも3分ほどで終わります。ほかのノートブックも同じモデルから始めます。ディレクトリがすでにあれば、それをそのまま使います。

# %%
# !test -d quickstart-model || llm-jp-modernbert quickstart

# %% [markdown]
# 以下のコードは公開モデルでも動きます。その場合は`MODEL = "llm-jp/llm-jp-modernbert-base"`としてください。

# %% tags=["parameters"]
MODEL = "quickstart-model"

# %% [markdown]
# ## マスクを埋める
#
# このモデルは通常のModernBERT形式なので、transformersの`pipeline`だけで使えます。マスクの表記はトークナイザごとに違うため、必ずトークナイザから取得します。`score`は確率で、語彙のすべてのトークンについて合計すると1になります。

# %%
from transformers import pipeline

fill_mask = pipeline("fill-mask", model=MODEL, top_k=3)
mask = fill_mask.tokenizer.mask_token
texts = [
    f"弟は毎朝七時に、妹と一緒に朝ごはんを{mask}ます。",
    f"母は「明日は海へ行きましょう」{mask}言いました。",
    f"春になると、公園の{mask}が咲きます。",
    f"東京は日本の{mask}です。",
]
for text, answers in zip(texts, fill_mask(texts), strict=True):
    print(text.replace(mask, "[MASK]"))
    for answer in answers:
        print(f"  {answer['score']:6.1%}  {answer['token_str']}")

# %% [markdown]
# 小さなモデルでも、よく見た言い回しには自信をもって答え、例が少ない箇所では、ありそうな語をいくつか挙げます。最後の文のようにどの候補の確率も低いときは、答えを知らないということです。「首都」と答えるための知識は、やさしい文章34,000字からは得られません。
#
# コマンドでも同じことができます。どのトークナイザでも`[MASK]`と書けます。一つの文に複数のマスクがあるときは、それぞれ独立に予測します。

# %%
# !llm-jp-modernbert fill-mask {MODEL} "[MASK]は六時に起き[MASK]、朝ごはんを食べます。" --top-k 3

# %% [markdown]
# ## トークン、ID、オフセット
#
# モデルに入力されるのは文字ではありません。トークナイザが文を語彙のトークンに分け、そのIDをモデルに渡します。オフセットは、各トークンが元の文のどの文字に当たるかを示します。固有表現抽出のように、元の文の中で範囲を示したいときに必要です。

# %%
import pandas as pd

from llm_jp_modernbert import LlmJpTokenizer

tokenizer = LlmJpTokenizer.from_pretrained(MODEL)


def token_table(text: str) -> pd.DataFrame:
    """The tokens of a text, their ids, and the characters that they cover."""
    encoded = tokenizer(text, return_offsets_mapping=True)
    rows = zip(encoded.tokens(), encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return pd.DataFrame(
        [(token, id, start, end, text[start:end]) for token, id, (start, end) in rows],
        columns=["token", "id", "start", "end", "characters"],
    )


token_table("春の鬱金香が咲く。")

# %% [markdown]
# * どの文にも、前後に`<CLS|LLM-jp>`と`<SEP|LLM-jp>`が付きます。元の文の文字には対応しません。
# * `▁`は文の先頭を表します。それ以外の場所では空白を表します。
# * 語彙にない文字は、`<0xE9> <0xAC> <0xB1>`のようにUTF-8のバイトに分かれます。三つとも同じ文字を指します。そのため、どのような文でも情報が失われず、復号すると元の文に完全に戻ります。

# %%
text = "春の鬱金香が咲く。\n  Tulips 🌷"
assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text

# %% [markdown]
# ## 文の途中のマスク
#
# 日本語では単語の間に空白を入れないので、マスクの次のトークンは文の続きとしてそのまま現れるべきです。ところが、llm-jp-modernbert-baseとともに公開されたトークナイザは、マスクを含む特殊トークンの直後に必ず`▁`を挿入します。`as_published`は、私たちのトークナイザの複製にこの不具合を再現します。

# %%
from llm_jp_modernbert.evaluation.tasks.fill_mask import as_published

published = as_published(tokenizer)
for name, each in {"corrected": tokenizer, "published": published}.items():
    print(f"{name:9}", *each(texts[0]).tokens())

# %% [markdown]
# 事前学習では、一つのトークンだけをマスクに置き換え、空白は挿入しません。つまり、モデルはこのような入力を見たことがありません。そのため、同じ重みでも正解の確率が下がります。

# %%
expected = ["食べ", "と", "花"]
rows = []
for text, answer in zip(texts, expected, strict=False):
    row = {"text": text.replace(mask, "[MASK]"), "answer": answer}
    for name, each in {"corrected": tokenizer, "published": published}.items():
        fill_mask.tokenizer = each
        row[name] = fill_mask(text, targets=[answer])[0]["score"]
    rows.append(row)
pd.DataFrame(rows).round(3)

# %% [markdown]
# `LlmJpTokenizer`は、どのllm-jpモデルでもこの不具合を直します。保存したトークナイザは、transformersだけで読み込んでも直ったままです。
#
# **次に読む:** [自分の文章を分類する](classification.ja.ipynb)、[自分の文章でモデルを事前学習する](pretraining.ja.ipynb)

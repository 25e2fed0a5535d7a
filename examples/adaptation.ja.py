# %% [markdown]
# # モデルを自分の分野に適応させる
#
# [![Colabで開く](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/ORG/llm-jp-modernbert/blob/main/examples/adaptation.ja.ipynb)
#
# モデルがよく知っているのは、事前学習で読んだ種類の文章です。取扱説明書、法令、診療記録などを扱うなら、ファインチューニングの前に、そうした文章で事前学習を続けましょう。必要なのは文章だけで、ラベルは不要です。
#
# ここでは、家電の取扱説明書にモデルを適応させ、その分野で何が良くなり、ほかの文章で何を忘れたかを測ります。

# %%
# !pip show -q llm-jp-modernbert || pip install -q "llm-jp-modernbert[finetune]"
# !test -d quickstart-model || llm-jp-modernbert quickstart

# %% tags=["parameters"]
MODEL = "quickstart-model"
MANUALS = 300
EPOCHS = 2

# %% [markdown]
# ## 文章を用意する
#
# 適応させる分野の文章は、10種類の家電についての文を組み合わせた短い取扱説明書です。quickstartの学習データには物語や説明文はありますが、取扱説明書はありません。ラベルは要らず、1行に一つ、`text`というキーを持つJSONオブジェクトがあれば十分です。

# %%
import json
import random
from pathlib import Path

APPLIANCES = [
    "洗濯機",
    "冷蔵庫",
    "掃除機",
    "電子レンジ",
    "炊飯器",
    "加湿器",
    "エアコン",
    "テレビ",
    "食器洗い機",
    "プリンター",
]
SENTENCES = [
    "{}の電源プラグをコンセントに差し込みます。",
    "電源ボタンを{}秒間押します。",
    "電源が入ると、緑色のランプが点灯します。",
    "設定画面で言語を選択し、決定ボタンを押します。",
    "ふたを閉めてから、スタートボタンを押してください。",
    "異常な音がする場合は、すぐに運転を停止してください。",
    "ランプが赤く点滅した場合は、電源を切り、{}分後に入れ直してください。",
    "お手入れの前に、必ず電源プラグを抜いてください。",
    "フィルターは{}か月に一度、水洗いしてください。",
    "ぬれた手で電源プラグに触れないでください。感電のおそれがあります。",
    "修理が必要な場合は、お買い上げの販売店にご相談ください。",
    "{}の保証期間は一年です。保証書を大切に保管してください。",
]
rng = random.Random(0)


def manual() -> str:
    """Six sentences of a manual, in the order above."""
    appliance = rng.choice(APPLIANCES)
    chosen = sorted(rng.sample(range(len(SENTENCES)), 6))
    numbers = "二三四五六"
    parts = [
        SENTENCES[place].format(appliance if SENTENCES[place].startswith("{") else rng.choice(numbers))
        for place in chosen
    ]
    return f"{appliance}の使い方\n" + "".join(parts)


def write(path: str, texts: list[str]) -> None:
    """Writes JSON lines."""
    lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
    Path(path).write_text("".join(lines), encoding="utf-8")


manuals = [manual() for _ in range(MANUALS)]
write("manuals.jsonl", manuals)
print(manuals[0])

# %% [markdown]
# 一般の文章は二つの目的に使います。一部は学習に混ぜて（**リプレイ**）、モデルが知っていることを保ちます。学習に一度も使わない別の部分では、どれだけ忘れたかを測ります。どちらもquickstartのデータから取ります。

# %%
from llm_jp_modernbert.quickstart.data import embedded_texts

general = embedded_texts()
write("general.jsonl", general.train)
write("general-held-out.jsonl", general.held_out)

# %% [markdown]
# ## 適応させる
#
# 学習率はもう一度上げますが、事前学習のときより低い値にとどめます。既定では、学習する文章の4分の1がリプレイです。取扱説明書の10分の1は、測定のために取り分けられます。

# %%
# !llm-jp-modernbert adapt {MODEL} --train manuals.jsonl --replay general.jsonl \
#     --general general-held-out.jsonl --out my-domain-model --epochs {EPOCHS}

# %% [markdown]
# ## 適応の前と後
#
# 疑似パープレキシティは、モデルが平均していくつのトークンの間で迷っているかに当たる値で、小さいほど良い値です。マスク正解率は、隠したトークンを当てた割合です。どちらも、両方の種類の、学習に使っていない文章で測ります。

# %%
from IPython.display import Image

Image("my-domain-model/assets/adaptation.png", width=640)

# %% [markdown]
# 生成した取扱説明書は互いによく似ているので、改善の幅は実際の文章より大きくなります。一般の文章では、疑似パープレキシティはほとんど変わりませんが、マスク正解率は下がっています。モデルは少しだけ忘れたのです。同じ問題を両方のモデルに解かせてみましょう。

# %%
import pandas as pd
from transformers import pipeline

texts = [
    "修理が必要な[MASK]合は、販売店にご相談ください。",
    "お手入れの前に、必ず[MASK]源プラグを抜いてください。",
    "電源ボタンを三秒[MASK]押します。",
    "弟は毎朝七時に、妹と一緒に朝ごはんを[MASK]ます。",
]
rows = {"text": texts}
for name, model in {"before": MODEL, "after": "my-domain-model"}.items():
    fill_mask = pipeline("fill-mask", model=model, top_k=1)
    answers = fill_mask([text.replace("[MASK]", fill_mask.tokenizer.mask_token) for text in texts])
    rows[name] = [f"{answer[0]['token_str']} {answer[0]['score']:.0%}" for answer in answers]
pd.DataFrame(rows)

# %% [markdown]
# 最後の文は取扱説明書のものではありません。モデルがこれを忘れていないかがわかります。忘れすぎるときは、`--replay-share`を大きくするか、`--epochs`を小さくしてください。
#
# 適応させたモデルは、[分類器](classification.ja.ipynb)など、ほかのすべてのコマンドの出発点に使えます。多くのトークンに分かれてしまう専門用語は、`llm-jp-modernbert vocabulary extend`で語彙に加えられます。

# %% [markdown]
# # Adapt a model to your domain
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/ORG/llm-jp-modernbert/blob/main/examples/adaptation.ipynb)
#
# A model knows the kind of text that it was pre-trained on. If your texts are manuals, laws or medical notes,
# continue the pre-training on them before you fine-tune: it needs texts only, no labels.
#
# You will adapt a model to manuals of household appliances, and measure what it gains there and what it forgets
# elsewhere.

# %%
# !pip show -q llm-jp-modernbert || pip install -q "llm-jp-modernbert[finetune]"
# !test -d quickstart-model || llm-jp-modernbert quickstart

# %% tags=["parameters"]
MODEL = "quickstart-model"
MANUALS = 300
EPOCHS = 2

# %% [markdown]
# ## The texts
#
# The domain: short manuals, put together from sentences about ten appliances. The quickstart's corpus has stories
# and descriptions, but no manuals. A manual has no labels; one JSON object per line with the key `text` is enough.

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
# General text serves two purposes. Some of it is mixed into the training (**replay**), so that the model keeps what
# it knows. Other general text, never trained on, measures forgetting. Here both come from the quickstart's corpus.

# %%
from llm_jp_modernbert.quickstart.data import embedded_texts

general = embedded_texts()
write("general.jsonl", general.train)
write("general-held-out.jsonl", general.held_out)

# %% [markdown]
# ## Adapt
#
# The command warms the learning rate up again, to a lower peak than in pre-training. A quarter of the training text
# is replay by default. A tenth of the manuals is held out to measure on.

# %%
# !llm-jp-modernbert adapt {MODEL} --train manuals.jsonl --replay general.jsonl \
#     --general general-held-out.jsonl --out my-domain-model --epochs {EPOCHS}

# %% [markdown]
# ## Before and after
#
# Pseudo-perplexity says between how many equally likely tokens the model hesitates on average; lower is better.
# Masked accuracy is the share of hidden tokens that it guesses. Both are measured on held-out texts of both kinds.

# %%
from IPython.display import Image

Image("my-domain-model/assets/adaptation.png", width=640)

# %% [markdown]
# The generated manuals resemble each other, so the gain is larger than on real texts. On general texts,
# pseudo-perplexity hardly changes, but masked accuracy falls: the model forgets a little. The same questions to both
# models:

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
# The last text is not from a manual: it shows whether the model forgot it. If it forgets too much, raise
# `--replay-share` or lower `--epochs`.
#
# The adapted model is a base for all other commands, for example for a [classifier](classification.ipynb). Terms
# that the tokenizer splits into many tokens can be added with `llm-jp-modernbert vocabulary extend`.

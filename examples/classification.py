# %% [markdown]
# # Classify your own texts
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/ORG/llm-jp-modernbert/blob/main/examples/classification.ipynb)
#
# A classifier assigns one of a few labels to a text. You give it examples with their labels, and fine-tuning changes
# a pre-trained model until it reproduces them. One command does this, and measures how well it works.
#
# You will write a CSV file, train a classifier on it, read its scores and its confusion matrix, and use it.

# %%
# !pip show -q llm-jp-modernbert || pip install -q "llm-jp-modernbert[finetune]"
# !test -d quickstart-model || llm-jp-modernbert quickstart

# %% tags=["parameters"]
MODEL = "quickstart-model"
REVIEWS = 400
EPOCHS = 6

# %% [markdown]
# ## The data
#
# A CSV file with the columns `text` and `label` is all that the command needs. Here we generate reviews of a hotel:
# each has a sentence about two of four topics, and the label says whether both are good (良い), both are bad (悪い), or
# one of each (両方). Generated texts keep this notebook self-contained; use your own file in the same form.

# %%
import random
from itertools import permutations, product

import pandas as pd

GOOD = {
    "部屋": ["部屋は広くて快適でした。", "部屋が静かで、よく眠れました。", "窓から海が見えて、感動しました。"],
    "食事": ["朝ごはんがとてもおいしかったです。", "夕食は魚が新鮮でした。", "料理の種類が多くて楽しめました。"],
    "人": ["受付の人が親切でした。", "笑顔で迎えてくれました。", "荷物をすぐに運んでくれました。"],
    "場所": ["駅から近くて便利でした。", "まわりに店が多くて助かりました。", "海まで歩いて行けました。"],
}
BAD = {
    "部屋": ["部屋は狭くて暗かったです。", "夜も外の音がうるさくて、眠れませんでした。", "部屋が寒くて困りました。"],
    "食事": ["朝ごはんは冷めていました。", "夕食は味が薄くて残念でした。", "料理が出てくるまで一時間も待ちました。"],
    "人": ["受付の人が失礼でした。", "質問しても、返事がありませんでした。", "受付で長く待たされました。"],
    "場所": ["駅から遠くて疲れました。", "坂の上にあって、歩くのが大変でした。", "まわりに店がなくて不便でした。"],
}
OPENINGS = ["", "家族で泊まりました。", "仕事で一泊しました。", "二回目です。", "友だちと夏に行きました。"]

rng = random.Random(0)
rows = []
for one, other in permutations(GOOD, 2):
    for first, second in product(GOOD[one] + BAD[one], GOOD[other] + BAD[other]):
        good = (first in GOOD[one]) + (second in GOOD[other])
        rows.append((rng.choice(OPENINGS) + first + second, ["悪い", "両方", "良い"][good]))
rng.shuffle(rows)
reviews = pd.DataFrame(rows[:REVIEWS], columns=["text", "label"])
reviews.head()

# %% [markdown]
# A model is measured on texts that it has not seen in training, so a fifth of the reviews becomes a test file. The
# command takes another tenth of the training file to choose the best epoch.

# %%
test = reviews.sample(frac=0.2, random_state=0)
test.to_csv("test.csv", index=False)
reviews.drop(test.index).to_csv("reviews.csv", index=False)

# %% [markdown]
# ## Train
#
# `key=value` sets any argument of transformers' `TrainingArguments`. The default learning rate suits models of the
# published size. This one has a hundredth of the parameters and learns too slowly with it, so we set a higher one.

# %%
# !llm-jp-modernbert finetune classification {MODEL} --train reviews.csv --test test.csv \
#     --out my-classifier learning_rate=1e-3 num_train_epochs={EPOCHS}

# %% [markdown]
# How to read the scores:
#
# * The **baseline** always answers the most frequent label. A score close to it means that the model learned
#   nothing.
# * **macro F1** counts each label equally, **accuracy** each text. They differ if a label is rare.
# * The **95 % interval** is wide because the test file is small: a difference inside it may be chance.
#
# ## See the errors
#
# The confusion matrix shows which labels are mistaken for which. Each row is a correct label, and its cells are the
# predictions.

# %%
from IPython.display import Image

Image("my-classifier/assets/confusion.png", width=480)

# %% [markdown]
# `errors.jsonl` lists the wrong predictions, the most confident first. Read them before you change a setting: they
# often show wrong labels, or a kind of text of which there are too few examples.

# %%
errors = pd.read_json("my-classifier/errors.jsonl", lines=True)
errors.head()

# %% [markdown]
# ## Use it
#
# The result is a plain ModernBERT classifier, so transformers loads it without this package. The next reviews use
# other words than the generated ones. Here a small model makes mistakes that the test file does not show: **a test
# is only as good as its texts are similar to those of the application.**

# %%
from transformers import pipeline

classify = pipeline("text-classification", model="my-classifier")
own = {
    "部屋は新しくて快適でした。夕食もおいしかったです。": "良い",
    "朝ごはんは冷たくて残念でした。部屋も暗かったです。": "悪い",
    "受付の人は親切でした。駅からは遠くて疲れました。": "両方",
    "親切な人ばかりで、また泊まりたいです。": "良い",
    "おいしい夕食でした。しかし、部屋が寒すぎます。": "両方",
    "不便な場所なので、もう行きません。": "悪い",
}
answers = classify(list(own))
pd.DataFrame(
    {"text": list(own), "correct": list(own.values()), "predicted": [answer["label"] for answer in answers]}
).assign(score=[round(answer["score"], 3) for answer in answers])

# %% [markdown]
# **Next:** [publish the classifier](publishing.ipynb), or [mark names in texts](entities.ipynb).

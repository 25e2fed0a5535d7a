# %% [markdown]
# # 自分の文章を分類する
#
# [![Colabで開く](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/ORG/llm-jp-modernbert/blob/main/examples/classification.ja.ipynb)
#
# 分類器は、いくつかのラベルのうち一つを文章に付けます。ラベル付きの例を渡すと、事前学習済みのモデルがそれを再現できるようになるまで調整されます。これがファインチューニングです。学習から性能の測定まで、一つのコマンドで済みます。
#
# ここでは、CSVファイルを作り、それで分類器を学習し、スコアと混同行列を読み、実際に使ってみます。

# %%
# !pip show -q llm-jp-modernbert || pip install -q "llm-jp-modernbert[finetune]"
# !test -d quickstart-model || llm-jp-modernbert quickstart

# %% tags=["parameters"]
MODEL = "quickstart-model"
REVIEWS = 400
EPOCHS = 6

# %% [markdown]
# ## データを用意する
#
# 必要なのは、`text`と`label`の列があるCSVファイルだけです。ここではホテルの口コミを自動生成します。どの口コミも、四つの話題のうち二つについて一文ずつ書かれています。二文とも好意的なら「良い」、二文とも否定的なら「悪い」、一文ずつなら「両方」がラベルです。生成した文を使うのは、このノートブックだけで完結させるためです。実際には、同じ形式の自分のファイルを使ってください。

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
# モデルの性能は、学習に使っていない文章で測ります。そこで、口コミの5分の1をテスト用ファイルに分けます。学習用ファイルの10分の1は、最もよいエポックを選ぶためにコマンドが自動的に取り分けます。

# %%
test = reviews.sample(frac=0.2, random_state=0)
test.to_csv("test.csv", index=False)
reviews.drop(test.index).to_csv("reviews.csv", index=False)

# %% [markdown]
# ## 学習する
#
# `key=value`の形で、transformersの`TrainingArguments`のどの引数も指定できます。学習率の既定値は、公開モデルと同程度の大きさに合わせてあります。このモデルのパラメータ数はその100分の1ほどで、既定値では学習が遅すぎるため、大きめの値にします。

# %%
# !llm-jp-modernbert finetune classification {MODEL} --train reviews.csv --test test.csv \
#     --out my-classifier learning_rate=1e-3 num_train_epochs={EPOCHS}

# %% [markdown]
# スコアの読み方は次のとおりです。
#
# * **baseline**は、最も多いラベルを常に答えた場合の値です。スコアがこれに近ければ、モデルは何も学んでいません。
# * **macro F1**はどのラベルも同じ重みで数え、**accuracy**はどの文章も同じ重みで数えます。まれなラベルがあると、両者に差が出ます。
# * **95 %信頼区間**が広いのは、テスト用ファイルが小さいからです。この区間に収まる程度の差は、偶然かもしれません。
#
# ## 間違いを見る
#
# 混同行列を見ると、どのラベルがどのラベルと間違えられたかがわかります。行が正解のラベル、列がモデルの予測です。

# %%
from IPython.display import Image

Image("my-classifier/assets/confusion.png", width=480)

# %% [markdown]
# `errors.jsonl`には、間違えた予測が、確信度の高いものから順に並んでいます。設定を変える前に読んでみてください。ラベルの付け間違いや、例が足りない種類の文章が見つかることがよくあります。

# %%
errors = pd.read_json("my-classifier/errors.jsonl", lines=True)
errors.head()

# %% [markdown]
# ## 使ってみる
#
# できあがったモデルは通常のModernBERT分類器なので、このパッケージがなくてもtransformersだけで読み込めます。次の口コミのうち、最初の三つは学習用ファイルの言い回しを使っていますが、残りの三つは使っていません。そこでは、テスト用ファイルのスコアには現れない間違いが出ます。**テストが役に立つのは、その文章が実際に使う場面の文章に似ているときだけです。**

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
# **次に読む:** [分類器を公開する](publishing.ja.ipynb)、[文章から名前を見つける](entities.ja.ipynb)

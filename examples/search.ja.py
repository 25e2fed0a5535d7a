# %% [markdown]
# # 意味で検索する
#
# [![Colabで開く](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/ORG/llm-jp-modernbert/blob/main/examples/search.ja.ipynb)
#
# キーワード検索は、検索語と同じ言葉を含む文章を見つけます。「お休みはいつ」と検索しても、「定休日」としか書かれていない文章は見つかりません。埋め込みモデルは、意味の近い文章どうしが近くなるように、文章をベクトルに変えます。そのため、共通の言葉がなくても検索できます。
#
# ここでは、質問と文章の組で埋め込みモデルを学習し、標準的なキーワード検索であるBM25と比べ、実際に検索してみます。

# %%
# !pip show -q llm-jp-modernbert || pip install -q "llm-jp-modernbert[retrieval]"
# !test -d quickstart-model || llm-jp-modernbert quickstart

# %% tags=["parameters"]
MODEL = "quickstart-model"
TRAINING_PAIRS = 400
EPOCHS = 4

# %% [markdown]
# ## データを用意する
#
# 学習データは、検索文と、その答えになる文章の組です。ここでは、町の施設について人が尋ねる質問を自動生成します。質問と案内文では、わざと違う言葉を使っています。現実でも、尋ねる人と案内文の言葉は違うからです。

# %%
import random

import pandas as pd

PLACES = ["図書館", "美術館", "動物園", "水族館", "市民プール", "博物館", "植物園", "天文台", "音楽ホール", "体育館"]
ANSWERS = {
    "{}の定休日は毎週月曜日です。": ["{}のお休みはいつですか", "{}が閉まっている日", "{}は月曜日に行けますか"],
    "{}の営業時間は午前九時から午後五時までです。": [
        "{}は何時に開きますか",
        "{}は夜も入れますか",
        "{}は何時まで見られますか",
    ],
    "{}の料金は大人五百円、子ども二百円です。": [
        "{}はいくらですか",
        "{}に入るのにお金はかかりますか",
        "{}のチケットの値段",
    ],
    "{}へは中央駅からバスで十分です。": ["{}への行き方", "{}まで電車で行けますか", "{}はどうやって行くの"],
    "{}には車が二百台止められます。": ["{}の駐車場", "{}に自動車で行きたい", "{}でパーキングはありますか"],
    "{}の二階に食堂と喫茶店があります。": [
        "{}でご飯を食べたい",
        "{}にレストランはありますか",
        "{}でコーヒーが飲めますか",
    ],
    "{}の建物には段差がなく、車いすを借りられます。": [
        "{}は足が悪くても大丈夫ですか",
        "{}のバリアフリー",
        "{}に祖母と行けますか",
    ],
    "{}の中での撮影はご遠慮ください。": [
        "{}で写真をとってもいいですか",
        "{}でカメラは使えますか",
        "{}で動画を残したい",
    ],
}
pairs = pd.DataFrame(
    [
        (query.format(place), passage.format(place))
        for place in PLACES
        for passage, queries in ANSWERS.items()
        for query in queries
    ],
    columns=["query", "passage"],
)
pairs.sample(4, random_state=1)

# %% [markdown]
# **文章**の5分の1を、対応する質問ごとテスト用ファイルに分けます。こうすると、モデルは、学習では一緒に現れなかった施設と話題の組み合わせに答えることになります。

# %%
passages = sorted(set(pairs.passage))
held_out = random.Random(0).sample(passages, len(passages) // 5)
in_test = pairs.passage.isin(held_out)
pairs[~in_test][:TRAINING_PAIRS].to_csv("train.csv", index=False)
pairs[in_test].to_csv("test.csv", index=False)
pd.DataFrame({"text": passages}).to_csv("passages.csv", index=False)

# %% [markdown]
# ## 学習する
#
# 各質問は、同じバッチに入ったほかの質問の文章の中から、自分の文章を見つけるように学習されます。少ない文章からの検索は易しすぎるので、`--corpus`ですべての案内文を検証時とテスト時の検索対象に加えます。

# %%
# !llm-jp-modernbert train-embedder {MODEL} --train train.csv --test test.csv \
#     --corpus passages.csv --out my-embedder \
#     learning_rate=1e-3 num_train_epochs={EPOCHS} per_device_train_batch_size=32

# %% [markdown]
# nDCG@10は、正しい文章が常に1位なら100になり、順位が下がるほど小さくなります。図では、学習前のモデルとBM25も比べています。学習前のモデルのベクトルは、検索のために作られたものではありません。

# %%
from IPython.display import Image

Image("my-embedder/assets/systems.png", width=600)

# %% [markdown]
# ## 検索する
#
# `load_encoder`は、パディングなしでベクトルを計算します。質問用と文章用のプロンプトはモデルに保存されています。ベクトルの長さは1なので、内積がそのままコサイン類似度になります。

# %%
from llm_jp_modernbert import load_encoder

encoder = load_encoder("my-embedder", backend="torch")
vectors = encoder.encode(passages, prompt="document")


def search(query: str, best: int = 3) -> pd.DataFrame:
    """The nearest passages."""
    similarity = vectors @ encoder.encode([query], prompt="query")[0]
    order = similarity.argsort()[::-1][:best]
    return pd.DataFrame({"similarity": similarity[order].round(3), "passage": [passages[place] for place in order]})


search("水族館のお休みはいつですか")

# %%
search("図書館で飲み物を飲める場所")

# %% [markdown]
# 二つ目の質問は、どのファイルにもありません。モデルはおおよそ近い話題を選びますが、学習した組にない言葉はあまり知りません。実際に使うときは、公開モデルから始めて数千組以上で学習し、BM25と組み合わせてください。固有名詞や数字の検索では、BM25はなかなか負けません。
#
# **次に読む:** [長い文書の中を検索する](long_documents.ja.ipynb)、[モデルを分野に適応させる](adaptation.ja.ipynb)

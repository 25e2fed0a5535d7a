# %% [markdown]
# # Search by meaning
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/ORG/llm-jp-modernbert/blob/main/examples/search.ipynb)
#
# Keyword search finds texts that share words with the query. It misses 定休日 for the query お休みはいつ. An embedder turns
# each text into a vector such that texts with the same meaning are close, so it can find what no shared word shows.
#
# You will train an embedder on pairs of questions and passages, compare it with BM25, the standard keyword search,
# and search with it.

# %%
# !pip show -q llm-jp-modernbert || pip install -q "llm-jp-modernbert[retrieval]"
# !test -d quickstart-model || llm-jp-modernbert quickstart

# %% tags=["parameters"]
MODEL = "quickstart-model"
TRAINING_PAIRS = 400
EPOCHS = 4

# %% [markdown]
# ## The data
#
# Training data are pairs of a query and a passage that answers it. We generate questions that visitors ask about
# places in a town. Queries and passages use different words on purpose, as people and leaflets do.

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
# A fifth of the **passages** goes into the test file, with all of their queries. The model then has to combine a
# place and a topic that it has not seen together.

# %%
passages = sorted(set(pairs.passage))
held_out = random.Random(0).sample(passages, len(passages) // 5)
in_test = pairs.passage.isin(held_out)
pairs[~in_test][:TRAINING_PAIRS].to_csv("train.csv", index=False)
pairs[in_test].to_csv("test.csv", index=False)
pd.DataFrame({"text": passages}).to_csv("passages.csv", index=False)

# %% [markdown]
# ## Train
#
# Each query has to find its passage among the passages of the other queries of the batch. `--corpus` adds all
# passages of the town to the search in validation and test, since a search among few passages is too easy.

# %%
# !llm-jp-modernbert train-embedder {MODEL} --train train.csv --test test.csv \
#     --corpus passages.csv --out my-embedder \
#     learning_rate=1e-3 num_train_epochs={EPOCHS} per_device_train_batch_size=32

# %% [markdown]
# nDCG@10 is 100 if the right passage is always first, and lower the further down it is. The same table has the model
# before training, whose vectors are not made for search, and BM25.

# %%
from IPython.display import Image

Image("my-embedder/assets/systems.png", width=600)

# %% [markdown]
# ## Search
#
# `load_encoder` computes vectors without padding, with the fastest runtime that is installed. Queries and passages
# have different prompts, which the model stores. Vectors have length 1, so their product is the cosine similarity.

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
# The second query is in none of the files. The embedder may place it near the right topic, but it has read too
# little to know many words beyond its pairs. For real use, start from the published model and thousands of pairs,
# and combine the embedder with BM25, which is hard to beat on names and numbers.
#
# **Next:** [search in a long document](long_documents.ipynb), or [adapt a model to your domain](adaptation.ipynb).

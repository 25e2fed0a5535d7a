# %% [markdown]
# # Find names in texts
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/ORG/llm-jp-modernbert/blob/main/examples/entities.ipynb)
#
# Named entity recognition marks the names in a text and says of what kind they are: persons, places, dates. The
# model gives each token a tag, and neighbouring tags become one entity.
#
# You will write training data with spans, train a tagger, measure it on names that it has never seen, and draw its
# answers into the text.

# %%
# !pip show -q llm-jp-modernbert || pip install -q "llm-jp-modernbert[finetune]"
# !test -d quickstart-model || llm-jp-modernbert quickstart

# %% tags=["parameters"]
MODEL = "quickstart-model"
SENTENCES = 300
EPOCHS = 8

# %% [markdown]
# ## The data
#
# Each line of a JSON-lines file has a text and its entities: start, end (exclusive) and label, counted in
# characters. Count characters, not tokens: the file then fits any tokenizer. CoNLL files with BIO tags work as well.
#
# We generate sentences about people and places. The test sentences use **other names** than the training sentences,
# so a good score means that the model reads the context and does not only remember names.

# %%
import json
import random

TEMPLATES = [
    "{人名}さんは{地名}で生まれました。",
    "{日付}、{人名}先生が{地名}へ来ます。",
    "母は{地名}の駅で{人名}さんに会いました。",
    "{地名}に住む{人名}さんから、手紙が来ました。",
    "{日付}から{地名}で祭りがあります。",
    "{人名}さんと一緒に{地名}の海へ行きました。",
    "この絵は、{人名}さんが{日付}、{地名}でかきました。",
]
FAMILIES = ["田中", "山本", "小川", "石田", "森", "大山", "川口", "上野", "中村", "西川"]
PLACES = ["京都", "大阪", "横浜", "広島", "長野", "山口", "福岡", "東京", "名古屋", "神戸"]
NEW_FAMILIES, NEW_PLACES = ["木下", "高田", "水野", "青木"], ["奈良", "高知", "金沢", "秋田"]
rng = random.Random(0)


def sentence(families: list[str], places: list[str]) -> dict:
    """A sentence with its entities."""
    text, entities = "", []
    for part in rng.choice(TEMPLATES).replace("}", "{").split("{"):
        start = len(text)
        text += {
            "人名": rng.choice(families),
            "地名": rng.choice(places),
            "日付": f"{rng.randint(1, 12)}月{rng.randint(1, 28)}日",
        }.get(part, part)
        if part in ("人名", "地名", "日付"):
            entities.append([start, len(text), part])
    return {"text": text, "entities": entities}


def write(path: str, sentences: list[dict]) -> None:
    """Writes JSON lines."""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(each, ensure_ascii=False) + "\n" for each in sentences)


write("train.jsonl", [sentence(FAMILIES, PLACES) for _ in range(SENTENCES)])
write("test.jsonl", [sentence(NEW_FAMILIES, NEW_PLACES) for _ in range(60)])
# !head -n 3 train.jsonl

# %% [markdown]
# ## Train
#
# The learning rate is higher than the default because the model is very small.

# %%
# !llm-jp-modernbert finetune ner {MODEL} --train train.jsonl --test test.jsonl \
#     --out my-tagger learning_rate=1e-3 num_train_epochs={EPOCHS}

# %% [markdown]
# An entity counts as correct only if its first character, its last character and its label are all correct. The
# validation part has the same names as the training part, and its score is perfect. On the new names of the test
# file, さん and 先生 still show a person, but many places are missed: **keep names apart if you want to know how a
# tagger does on new ones.**
#
# A tag covers whole tokens. The small vocabulary of the quickstart has tokens such as 日に, so no tagger can mark
# exactly the date in 三月三日に; the sentences above avoid this. If a score stays lower than the loss suggests, look at
# the tokens first.
#
# ## Draw the entities
#
# The pipeline of transformers joins the tags of neighbouring tokens. `start` and `end` are places in the original
# text, so the names can be marked in it.

# %%
from html import escape

from IPython.display import HTML
from transformers import pipeline

tag = pipeline("token-classification", model="my-tagger", aggregation_strategy="simple")
COLOURS = {"人名": "#ffd9a8", "地名": "#bfe3c0", "日付": "#c5d8f7"}


def draw(text: str) -> str:
    """HTML of a text with its entities marked."""
    parts, end = [], 0
    for entity in tag(text):
        # The bytes of a rare character are separate tokens and may have different tags.
        start = max(entity["start"], end)
        if start == entity["end"]:
            continue
        style = f"background:{COLOURS[entity['entity_group']]};color:#000;padding:2px 4px;border-radius:4px"
        name = f"{escape(text[start : entity['end']])} <small>{entity['entity_group']}</small>"
        parts += [escape(text[end:start]), f'<mark style="{style}">{name}</mark>']
        end = entity["end"]
    return f"<p>{''.join(parts)}{escape(text[end:])}</p>"


texts = [
    "高田さんは金沢で生まれました。",
    "7月3日、水野さんから手紙が来ました。",
    "10月に父と秋田へ行き、木下先生に会いました。",
    "私は金沢の友だちと海で泳ぎました。",
]
HTML("".join(map(draw, texts)))

# %% [markdown]
# All names are new to the model. It finds the persons and dates, and splits or misses some places. More varied
# sentences help more than more sentences of the same form, and a larger pre-trained model already knows most places.
#
# **Next:** [search by meaning](search.ipynb), or [publish the tagger](publishing.ipynb).

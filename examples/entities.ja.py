# %% [markdown]
# # 文章から名前を見つける
#
# [![Colabで開く](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/ORG/llm-jp-modernbert/blob/main/examples/entities.ja.ipynb)
#
# 固有表現抽出は、文章の中の名前に印を付け、人名、地名、日付などの種類を答える課題です。モデルはトークンごとにタグを付け、隣り合うタグがまとまって一つの固有表現になります。
#
# ここでは、範囲付きの学習データを作ってタグ付けモデルを学習し、見たことのない名前で性能を測り、結果を文章の中に描きます。

# %%
# !pip show -q llm-jp-modernbert || pip install -q "llm-jp-modernbert[finetune]"
# !test -d quickstart-model || llm-jp-modernbert quickstart

# %% tags=["parameters"]
MODEL = "quickstart-model"
SENTENCES = 300
EPOCHS = 8

# %% [markdown]
# ## データを用意する
#
# JSON Linesファイルの1行に、文章とその固有表現を書きます。固有表現は、開始位置、終了位置（その文字は含まない）、ラベルの三つ組です。位置はトークンではなく文字で数えるので、どのトークナイザでも使えます。BIOタグ付きのCoNLLファイルも使えます。
#
# ここでは、人と場所についての文を自動生成します。テスト用の文には、学習用の文とは**別の名前**を使います。こうしておけば、スコアが高いとき、モデルが名前を暗記しただけでなく文脈を読んでいるとわかります。

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
# ## 学習する
#
# モデルがとても小さいので、学習率は既定値より大きくします。

# %%
# !llm-jp-modernbert finetune ner {MODEL} --train train.jsonl --test test.jsonl \
#     --out my-tagger learning_rate=1e-3 num_train_epochs={EPOCHS}

# %% [markdown]
# 最初の文字、最後の文字、ラベルがすべて合っているときだけ、正解と数えます。検証用の文は学習用の文と同じ名前を含むので、スコアは満点です。テスト用の文の新しい名前では、「さん」や「先生」から人名はわかりますが、地名は多くが見落とされます。**初めて見る名前での性能を知りたいときは、学習用とテスト用の名前を分けてください。**
#
# タグは一つのトークン全体に付きます。quickstartの小さな語彙には「日に」のようなトークンがあるため、「三月三日に」の日付だけを正確に示すことはできません。上の文は、それを避けて作ってあります。損失が十分に下がったのにスコアが低いときは、まずトークンの区切りを確かめてください。
#
# ## 固有表現を描く
#
# transformersのパイプラインは、隣り合うトークンのタグをまとめます。`start`と`end`は元の文章での位置なので、文章の中の名前に印を付けられます。

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
# どの名前も、モデルは初めて見ます。人名と日付は見つけられますが、地名は途中で切れたり、見落とされたりします。同じ形の文を増やすより、文の種類を増やすほうが効果があります。また、大きな事前学習済みモデルなら、たいていの地名をすでに知っています。
#
# **次に読む:** [意味で検索する](search.ja.ipynb)、[モデルを公開する](publishing.ja.ipynb)

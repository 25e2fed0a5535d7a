# %% [markdown]
# # モデルを公開する
#
# [![Colabで開く](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/ORG/llm-jp-modernbert/blob/main/examples/publishing.ja.ipynb)
#
# Hugging Face Hubに置くモデルは、誰でも読み込めて、どのようなモデルか、どれほどの性能かがモデルカードからわかるものであるべきです。`release`は、ファイルとモデルカードを作り、両方を検査して、一つのコミットでアップロードします。
#
# ここでは、アップロードせずに公開の準備をし、モデルカードを読み、壊れたモデルが拒否されることを確かめ、ネットワークなしで読み込みます。

# %%
# !pip show -q llm-jp-modernbert || pip install -q "llm-jp-modernbert[finetune]"
# !test -d quickstart-model || llm-jp-modernbert quickstart

# %% tags=["parameters"]
MODEL = "quickstart-model"

# %% [markdown]
# ## 予行演習
#
# `--dry-run`を付けると、公開するファイルをディレクトリに書き出すだけで、何もアップロードしません。そのため、アカウントも要りません。事前学習の結果、ファインチューニングした分類器、埋め込みモデルなど、どのコマンドの出力でも公開できます。

# %%
# !llm-jp-modernbert release {MODEL} --repo ORG/my-model --license apache-2.0 --language ja --dry-run staged

# %% [markdown]
# アップロードの前に、次のことが検査されます。
#
# * **このパッケージのない**別のPythonプロセスで、書き出したファイルをtransformersで読み込み、出力が元のモデルと等しいことを確かめます。このパッケージを知らない人でも、モデルを使えるということです。
# * モデルカードのコードを実行し、実際の出力をモデルカードに載せます。
# * モデルカードのメタデータがHubの形式に合っていることを確かめます。
#
# ## モデルカード
#
# モデルカードの数値は、設定、学習の記録、評価結果など、モデルのファイルから計算されます。最初の部分を見てみましょう。

# %%
from pathlib import Path

from IPython.display import Markdown

card = Path("staged/README.md").read_text(encoding="utf-8")
body = card.split("---\n", 2)[2]
Markdown(body.split("### Sentence embeddings")[0].replace("\n#", "\n###"))

# %% [markdown]
# 公開する前に、「Limitations and biases」の節を読んでください。数値が示すことが、悪いことも含めて書かれています。

# %%
Markdown(card.split("## Limitations and biases")[1].split("\n## ")[0])

# %% [markdown]
# ## 間違いが見つかる例
#
# コピーの途中でファイルが壊れたとします。ここでは、重みのファイルの末尾を削ります。`release`はこのモデルを拒否し、書きかけのディレクトリも残しません（`|| true`は、エラーのあともノートブックを続けるためのものです）。

# %%
import shutil

shutil.copytree(MODEL, "broken-model")
weights = Path("broken-model/model.safetensors")
weights.write_bytes(weights.read_bytes()[:-1000])
# !llm-jp-modernbert release broken-model --repo ORG/my-model --license apache-2.0 --language ja \
#     --dry-run staged-broken || true

# %% [markdown]
# ## アップロードする
#
# アカウントがあれば、最初に一度`hf auth login`でログインし、同じコマンドを`--dry-run`なしで実行します。`--private`を付けると、非公開のリポジトリを作ります。接続が切れたときは、もう一度実行すれば続きから始まります。変更のないモデルを公開し直しても、新しいコミットはできません。
#
# ```bash
# llm-jp-modernbert release quickstart-model --repo ORG/my-model --license apache-2.0 --language ja --private
# ```
#
# ## ネットワークなしで読み込む
#
# `llm-jp-modernbert pull ORG/my-model`は、公開されたモデルをダウンロードし、ファイルを一つずつ検証します。その後は、ネットワークなしで読み込めます。`HF_HUB_OFFLINE`を設定すると、ネットワークには一切接続しません。書き出したディレクトリも、同じように読み込めます。

# %%
import os

os.environ["HF_HUB_OFFLINE"] = "1"

from transformers import pipeline

fill_mask = pipeline("fill-mask", model="staged", top_k=1)
answer = fill_mask(f"弟は毎朝七時に、妹と一緒に朝ごはんを{fill_mask.tokenizer.mask_token}ます。")[0]
print(answer["token_str"], round(answer["score"], 3))

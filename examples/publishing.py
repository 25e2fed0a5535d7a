# %% [markdown]
# # Publish a model
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/ORG/llm-jp-modernbert/blob/main/examples/publishing.ipynb)
#
# A model on the Hugging Face Hub should load for everyone, and its card should say what it is and how good it is.
# `release` writes the files and the card, checks both, and uploads them in one commit.
#
# You will prepare a release without uploading it, read its card, see a broken model rejected, and load the release
# offline.

# %%
# !pip show -q llm-jp-modernbert || pip install -q "llm-jp-modernbert[finetune]"
# !test -d quickstart-model || llm-jp-modernbert quickstart

# %% tags=["parameters"]
MODEL = "quickstart-model"

# %% [markdown]
# ## A dry run
#
# `--dry-run` writes the release to a directory and uploads nothing, so it needs no account. The source can be the
# output of any command: a pre-training run, a fine-tuned classifier, an embedder.

# %%
# !llm-jp-modernbert release {MODEL} --repo ORG/my-model --license apache-2.0 --language ja --dry-run staged

# %% [markdown]
# These checks ran before any upload:
#
# * A separate Python process **without this package** loads the staged files with transformers, and its outputs
#   equal those of the source. So the model loads for people who have never heard of this package.
# * The code in the card runs, and the card shows its real output.
# * The metadata of the card is valid for the Hub.
#
# ## The card
#
# All figures in the card are computed from the files of the model: its configuration, its training log, its results.
# This is its first part:

# %%
from pathlib import Path

from IPython.display import Markdown

card = Path("staged/README.md").read_text(encoding="utf-8")
body = card.split("---\n", 2)[2]
Markdown(body.split("### Sentence embeddings")[0].replace("\n#", "\n###"))

# %% [markdown]
# Read the section "Limitations and biases" before you publish. It says what the figures say, also if they are bad:

# %%
Markdown(card.split("## Limitations and biases")[1].split("\n## ")[0])

# %% [markdown]
# ## A mistake is found
#
# Suppose that a file was damaged when it was copied. Here we remove the end of the weights. `release` refuses the
# model, and leaves no half-written directory:

# %%
import shutil

shutil.copytree(MODEL, "broken-model")
weights = Path("broken-model/model.safetensors")
weights.write_bytes(weights.read_bytes()[:-1000])
# !llm-jp-modernbert release broken-model --repo ORG/my-model --license apache-2.0 --language ja \
#     --dry-run staged-broken || true

# %% [markdown]
# ## Upload
#
# With an account, log in once with `hf auth login`, and run the same command without `--dry-run`; `--private`
# creates a private repository. If the connection breaks, run it again: it continues, and an unchanged release makes
# no new commit.
#
# ```bash
# llm-jp-modernbert release quickstart-model --repo ORG/my-model --license apache-2.0 --language ja --private
# ```
#
# ## Load it offline
#
# `llm-jp-modernbert pull ORG/my-model` downloads a release and verifies each file. Afterwards the model loads
# without a network, which `HF_HUB_OFFLINE` enforces. The staged directory loads in the same way:

# %%
import os

os.environ["HF_HUB_OFFLINE"] = "1"

from transformers import pipeline

fill_mask = pipeline("fill-mask", model="staged", top_k=1)
answer = fill_mask(f"弟は毎朝七時に、妹と一緒に朝ごはんを{fill_mask.tokenizer.mask_token}ます。")[0]
print(answer["token_str"], round(answer["score"], 3))

# %% [markdown]
# # Fill masks, and see what the tokenizer does
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/ORG/llm-jp-modernbert/blob/main/examples/fill_mask.ipynb)
#
# A masked language model reads a text with a gap and predicts the missing token from the words on both sides. It was
# pre-trained on this task, so it needs no labelled data, and its answers show what it has learned.
#
# You will fill masks, look at the tokens of a text, and see why a space after a mask costs correct answers.

# %%
# !pip show -q llm-jp-modernbert || pip install -q "llm-jp-modernbert[eval]"

# %% [markdown]
# ## A model
#
# The published model has 187 million parameters. To keep this notebook quick, `quickstart` trains one with 2 million
# parameters on 34,000 characters of simple Japanese, in about three minutes on a CPU. The other notebooks start from
# the same model. If the directory exists, it is used as it is.

# %%
# !test -d quickstart-model || llm-jp-modernbert quickstart

# %% [markdown]
# Everything below also works with the published model: set `MODEL = "llm-jp/llm-jp-modernbert-base"`.

# %% tags=["parameters"]
MODEL = "quickstart-model"

# %% [markdown]
# ## Fill a mask
#
# The model is a plain ModernBERT checkpoint, so the `pipeline` of transformers is enough. Take the mask from the
# tokenizer, because each tokenizer spells it in its own way. `score` is a probability: the scores of all tokens in
# the vocabulary sum to 1.

# %%
from transformers import pipeline

fill_mask = pipeline("fill-mask", model=MODEL, top_k=3)
mask = fill_mask.tokenizer.mask_token
texts = [
    f"弟は毎朝七時に、妹と一緒に朝ごはんを{mask}ます。",
    f"母は「明日は海へ行きましょう」{mask}言いました。",
    f"春になると、公園の{mask}が咲きます。",
    f"東京は日本の{mask}です。",
]
for text, answers in zip(texts, fill_mask(texts), strict=True):
    print(text.replace(mask, "[MASK]"))
    for answer in answers:
        print(f"  {answer['score']:6.1%}  {answer['token_str']}")

# %% [markdown]
# The small model is sure about frequent patterns and gives several plausible words where its texts had few examples.
# Low probabilities for all candidates, as in the last text, mean that it does not know: the answer 首都 needs
# knowledge that 34,000 characters of simple text do not teach.
#
# The command line does the same, and accepts `[MASK]` for every tokenizer. Two masks in one text are predicted
# independently of each other:

# %%
# !llm-jp-modernbert fill-mask {MODEL} "[MASK]は六時に起き[MASK]、朝ごはんを食べます。" --top-k 3

# %% [markdown]
# ## Tokens, ids and offsets
#
# The model does not see characters. The tokenizer splits a text into tokens of its vocabulary, and the model
# receives their ids. Offsets say which characters a token covers; you need them to mark a token in the original
# text, for example for named entities.

# %%
import pandas as pd

from llm_jp_modernbert import LlmJpTokenizer

tokenizer = LlmJpTokenizer.from_pretrained(MODEL)


def token_table(text: str) -> pd.DataFrame:
    """The tokens of a text, their ids, and the characters that they cover."""
    encoded = tokenizer(text, return_offsets_mapping=True)
    rows = zip(encoded.tokens(), encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return pd.DataFrame(
        [(token, id, start, end, text[start:end]) for token, id, (start, end) in rows],
        columns=["token", "id", "start", "end", "characters"],
    )


token_table("春の鬱金香が咲く。")

# %% [markdown]
# * `<CLS|LLM-jp>` and `<SEP|LLM-jp>` are added around every text. They cover no characters.
# * `▁` marks the start of a text, and stands for a space elsewhere.
# * A character outside the vocabulary becomes its UTF-8 bytes, such as `<0xE9> <0xAC> <0xB1>`. All three cover the
#   same character. So every text has tokens, none is lost, and decoding restores the text exactly:

# %%
text = "春の鬱金香が咲く。\n  Tulips 🌷"
assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text

# %% [markdown]
# ## A mask in the middle of a sentence
#
# Japanese has no spaces between words, so the token after a mask should continue the sentence directly. The
# tokenizer that was published with llm-jp-modernbert-base inserts a `▁` after every special token, also after a
# mask. `as_published` makes a copy of our tokenizer with this defect:

# %%
from llm_jp_modernbert.evaluation.tasks.fill_mask import as_published

published = as_published(tokenizer)
for name, each in {"corrected": tokenizer, "published": published}.items():
    print(f"{name:9}", *each(texts[0]).tokens())

# %% [markdown]
# In pre-training, masks replace single tokens and no space is inserted, so the model has not seen such an input. The
# same weights then give the correct answer a lower probability:

# %%
expected = ["食べ", "と", "花"]
rows = []
for text, answer in zip(texts, expected, strict=False):
    row = {"text": text.replace(mask, "[MASK]"), "answer": answer}
    for name, each in {"corrected": tokenizer, "published": published}.items():
        fill_mask.tokenizer = each
        row[name] = fill_mask(text, targets=[answer])[0]["score"]
    rows.append(row)
pd.DataFrame(rows).round(3)

# %% [markdown]
# `LlmJpTokenizer` corrects this for any llm-jp model, and a saved tokenizer keeps the correction in plain
# transformers.
#
# **Next:** [classify your own texts](classification.ipynb), or [train a model from your own
# texts](pretraining.ipynb).

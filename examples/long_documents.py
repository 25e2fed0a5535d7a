# %% [markdown]
# # Read a long document in one piece
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/ORG/llm-jp-modernbert/blob/main/examples/long_documents.ipynb)
#
# Most Japanese encoders read 512 tokens. A contract or a manual then has to be cut, and each piece is read without
# the others. This model reads 8192 tokens, about 12,000 characters, in one piece.
#
# You will encode a document of 8192 tokens once, search its passages, teach a model to fill a mask with a word from
# far above, and see what padding costs.

# %%
# !pip show -q llm-jp-modernbert || pip install -q "llm-jp-modernbert[finetune]"
# !test -d quickstart-model || llm-jp-modernbert quickstart

# %% tags=["parameters"]
MODEL = "quickstart-model"
LENGTH = 8192
STEPS = 180

# %% [markdown]
# ## The model and the document
#
# The quickstart's model was trained with 1024 tokens. Its positions are rotations (RoPE) and not a table, so it can
# compute longer inputs; whether it understands them is another question, which we measure below. The published model
# was trained with 8192 tokens and needs no `max_position_embeddings`.
#
# The document is made of the quickstart's corpus: stories and descriptions, one after another, each a passage.

# %%
import torch

from llm_jp_modernbert import LlmJpModernBertForMaskedLM, LlmJpTokenizer
from llm_jp_modernbert.quickstart.data import embedded_texts

tokenizer = LlmJpTokenizer.from_pretrained(MODEL, model_max_length=LENGTH)
model = LlmJpModernBertForMaskedLM.from_pretrained(MODEL, max_position_embeddings=LENGTH).eval()

corpus = embedded_texts()
passages, size = [], 2
for text in corpus.held_out + corpus.train:
    passage = text + "\n"
    tokens = len(tokenizer(passage, add_special_tokens=False)["input_ids"])
    if size + tokens <= LENGTH:
        passages.append(passage)
        size += tokens
document = "".join(passages)
encoded = tokenizer(document, return_offsets_mapping=True, return_tensors="pt")
print(f"{len(passages)} passages, {len(document):,} characters, {encoded['input_ids'].shape[1]:,} tokens")

# %% [markdown]
# ## Encode once, search many times
#
# One pass gives a vector for each token, computed from the whole document. The mean of the vectors of a passage is
# the vector of the passage. This way of cutting **after** the model is called late chunking: a passage's vector
# depends on the text before and after it. Offsets show which tokens belong to which passage.

# %%
with torch.inference_mode():
    hidden = model.model(input_ids=encoded["input_ids"]).last_hidden_state[0]

starts = encoded["offset_mapping"][0, 1:-1, 0].contiguous()
ends = torch.tensor([len(passage) for passage in passages]).cumsum(0)
owner = torch.searchsorted(ends, starts, right=True)
centre = hidden[1:-1].mean(0)
vectors = torch.stack([hidden[1:-1][owner == number].mean(0) - centre for number in range(len(passages))])


def search(query: str, best: int = 3) -> None:
    """Prints the passages nearest to a query."""
    with torch.inference_mode():
        tokens = model.model(**tokenizer(query, return_tensors="pt")).last_hidden_state[0, 1:-1]
    similarity = torch.cosine_similarity(vectors, tokens.mean(0) - centre, dim=-1)
    for number in similarity.topk(best).indices.tolist():
        print(f"{similarity[number]:.2f}  {passages[number][:45].strip()}…")


search("雨が降って、傘をさして歩きました。")

# %% [markdown]
# This model was never trained to compare texts, so its answers are rough: it finds passages of a similar kind. For a
# real search, train an [embedder](search.ipynb).
#
# ## Fill a mask from far above
#
# In ordinary text, the words next to a mask say most about it, and a small model learns to look only there. To see
# far context at work, we train it on a task that needs it: a text names a password (合言葉) in its first sentence and
# asks for it later. Only the first sentence knows the answer.

# %%
import random

WORDS = list("花桜猫犬魚川海山雪雨空月星木草鳥馬牛本紙石火水土風春夏秋冬朝夜米茶卵塩橋駅店家庭窓船車父母兄姉弟妹")
rng = random.Random(0)


def ids_of(text: str) -> list[int]:
    """Token ids without special tokens."""
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def make_text(length: int, filler: list[int], questions: int = 1) -> tuple[list[int], int]:
    """A text of `length` tokens with a password and questions, and the token of the password."""
    password, question = (
        ids_of(f"合言葉は「{each}」です。")[1:] for each in (rng.choice(WORDS), tokenizer.mask_token)
    )
    room = max(0, length - 2 - len(password) - questions * len(question))
    start = rng.randrange(len(filler) - room)
    cuts = [*sorted(rng.randrange(room + 1) for _ in range(questions - 1)), room]
    ids, last = [tokenizer.cls_token_id, *password], 0
    for cut in cuts:
        ids += filler[start + last : start + cut] + question
        last = cut
    return [*ids, tokenizer.sep_token_id], password[question.index(tokenizer.mask_token_id)]


text, answer = make_text(60, ids_of(document))
print(tokenizer.decode(text, skip_special_tokens=False), "→", tokenizer.decode(answer))

# %% [markdown]
# The texts grow from 40 to 8192 tokens. This order matters: first the model learns what to copy, then from how far.
# Several texts form one packed row; `cu_seqlens` says where each begins, and attention never crosses such a
# boundary. Only the masks have labels.

# %%
filler = ids_of("".join(corpus.train))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
losses = []
half = STEPS // 2
model.train()
for step in range(STEPS):
    if step < half:
        longest, shortest = 40 + 240 * step // half, 30
    else:
        longest = int(280 * (LENGTH / 280) ** ((step - half + 1) / (STEPS - half)))
        shortest = longest // 2
        optimizer.param_groups[0]["lr"] = 5e-4
    texts = [
        make_text(rng.randint(shortest, longest), filler, questions=max(1, longest // 100))
        for _ in range(max(1, 2000 // longest))
    ]
    row = torch.tensor([[token for ids, _ in texts for token in ids]])
    labels = torch.tensor([[answer for ids, answer in texts for _ in ids]])
    labels[row != tokenizer.mask_token_id] = -100
    lengths = torch.tensor([0, *(len(ids) for ids, _ in texts)], dtype=torch.int32)
    loss = model(input_ids=row, labels=labels, cu_seqlens=lengths.cumsum(0, dtype=torch.int32)).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())

# %% [markdown]
# Now the test, with other filler text: the password is in the first sentence and the question in the last. For each
# length, how often is the answer right, before and after this training? Guessing is right once in 49 times.

# %%
import matplotlib.pyplot as plt

model.eval()
before = LlmJpModernBertForMaskedLM.from_pretrained(MODEL, max_position_embeddings=LENGTH).eval()
other = ids_of("".join(corpus.held_out)) * 3
tests = {
    length: [make_text(length, other) for _ in range(6)] for length in (128, 512, 2048, LENGTH) if length <= LENGTH
}


def is_right(model: LlmJpModernBertForMaskedLM, ids: list[int], answer: int) -> bool:
    """Whether the best token for the mask is the password."""
    row = torch.tensor([ids])
    with torch.inference_mode():
        return model(input_ids=row).logits[row == tokenizer.mask_token_id].argmax().item() == answer


plt.figure(figsize=(6, 3.2), layout="constrained")
for name, each in {"before": before, "after": model}.items():
    shares = [100 * sum(is_right(each, *test) for test in group) / len(group) for group in tests.values()]
    print(name, dict(zip(tests, map(round, shares), strict=True)))
    plt.semilogx(list(tests), shares, marker="o", base=2, label=name)
plt.xlabel("tokens between password and question")
plt.ylabel("correct answers, %")
plt.legend()
plt.show()

# %% [markdown]
# Before, the model never finds the password. Afterwards it always does within 2048 tokens, but not from 8192 tokens
# away: only the last few steps had texts of that length. **A model reads as far as it was trained to, however long
# an input it accepts.** This is why the published model had a second stage of training with 8192 tokens (`pretrain
# stage2`). `evaluate --tasks pseudo-perplexity` measures how much a model gains from each length of context.
#
# ## The cost of padding
#
# A batch of texts of different lengths is usually padded to the longest. Transformers computes the padding as well;
# this package removes it on entry, and computes the local layers in windows. One long text and fifteen short ones,
# with the same weights:

# %%
import time

import pandas as pd
from transformers import ModernBertForMaskedLM

plain = ModernBertForMaskedLM.from_pretrained(MODEL, max_position_embeddings=LENGTH).eval().model
batch = tokenizer([document[: LENGTH // 3], *passages[:15]], padding=True, return_tensors="pt")
outputs, seconds = {}, {}
for name, encoder in {"transformers": plain, "this package": before.model}.items():
    with torch.inference_mode():
        encoder(**tokenizer("準備", return_tensors="pt"))
        start = time.perf_counter()
        outputs[name] = encoder(**batch).last_hidden_state[batch["attention_mask"].bool()]
        seconds[name] = time.perf_counter() - start
difference = (outputs["transformers"] - outputs["this package"]).abs().max()
assert difference < 1e-3
positions = [batch["input_ids"].numel(), int(batch["attention_mask"].sum())]
pd.DataFrame({"positions computed": positions, "seconds": seconds.values()}, index=list(seconds)).round(1)

# %% [markdown]
# Both give the same vectors, and most of what transformers computes here is padding. The seconds are those of a busy
# machine with two cores. How much faster it is depends on how different the lengths are; with equal lengths there is
# no padding to save.
#
# **Next:** [train an embedder](search.ipynb), or [pre-train a model](pretraining.ipynb).

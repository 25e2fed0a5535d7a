# %% [markdown]
# # 長い文書をまとめて読む
#
# [![Colabで開く](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/ORG/llm-jp-modernbert/blob/main/examples/long_documents.ja.ipynb)
#
# 日本語のエンコーダの多くは、一度に512トークンまでしか読めません。契約書や説明書は分割する必要があり、それぞれの部分はほかの部分を見ずに読まれます。このモデルは8192トークン、およそ12,000字をまとめて読めます。
#
# ここでは、8192トークンの文書を一度だけエンコードして中を検索し、ずっと前に出てきた言葉でマスクを埋めることをモデルに教え、パディングにどれほどの無駄があるかを確かめます。

# %%
# !pip show -q llm-jp-modernbert || pip install -q "llm-jp-modernbert[finetune]"
# !test -d quickstart-model || llm-jp-modernbert quickstart

# %% tags=["parameters"]
MODEL = "quickstart-model"
LENGTH = 8192
STEPS = 180

# %% [markdown]
# ## モデルと文書を用意する
#
# quickstartのモデルは、1024トークンまでの文章で学習しました。位置は表ではなく回転（RoPE）で表されるので、もっと長い入力も計算できます。それを活用できるかどうかは別の問題で、あとで確かめます。公開モデルは8192トークンで学習してあるので、`max_position_embeddings`の指定は要りません。
#
# 文書は、quickstartの学習データをつなげたものです。物語や説明文が並び、その一つ一つを段落と呼ぶことにします。

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
# ## 一度のエンコードで何度も検索する
#
# 一度の計算で、文書全体を踏まえたベクトルがトークンごとに得られます。段落のトークンのベクトルを平均すると、段落のベクトルになります。モデルに入れた**あと**で区切るこの方法は、late chunkingと呼ばれます。各段落のベクトルには、その前に書かれていることも反映されます。どのトークンがどの段落に属するかは、オフセットからわかります。

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
# このモデルは文章を比べる学習をしていないので、答えは大まかで、似た種類の段落が見つかる程度です。本格的な検索には、[埋め込みモデル](search.ja.ipynb)を学習してください。
#
# ## ずっと前の言葉でマスクを埋める
#
# 普通の文章では、マスクの手がかりはたいてい隣の言葉にあるので、小さなモデルはそこだけを見るようになります。離れた文脈の働きを見るために、それなしでは解けない課題を学習させます。文章の最初の文が合言葉を示し、あとでそれを尋ねます。答えは最初の文にしか書かれていません。

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
# 文章の長さは、40トークンから8192トークンまで少しずつ伸ばします。この順序が大切です。モデルは、まず何を写すかを学び、次にどれだけ遠くから写すかを学びます。複数の文章を一つの行に詰め、それぞれの始まりを`cu_seqlens`で示します。アテンションがこの境界を越えることはありません。ラベルがあるのはマスクだけです。

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
# では、別の文章を間にはさんで試します。合言葉は最初の文に、質問は最後の文にあります。長さごとに、学習の前と後でどれだけ正しく答えられるでしょうか。当てずっぽうなら、正解は49回に1回です。

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
# 学習前のモデルは、合言葉を一度も見つけられません。学習後は、2048トークン以内なら必ず見つけますが、8192トークン離れると見つけられません。その長さの文章が出てきたのは、最後の数ステップだけだったからです。**モデルが読めるのは学習した長さまでで、それより長い入力を受け付けても、活用できるとは限りません**。公開モデルが8192トークンで2段階目の学習（`pretrain stage2`）をしたのは、このためです。文脈を長くするとモデルの予測がどれだけ良くなるかは、`evaluate --tasks pseudo-perplexity`で測れます。
#
# ## パディングの無駄
#
# 長さの違う文章をまとめて計算するとき、普通は最も長い文章に合わせてパディングします。transformersはパディングの部分も計算しますが、このパッケージは入力の時点で取り除き、局所的な層は窓の中だけを計算します。長い文章一つと短い文章15個を、同じ重みで計算してみましょう。

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
# どちらのベクトルも同じで、ここでtransformersが計算したもののほとんどはパディングです。秒数は、ほかの仕事も動いている2コアの計算機で測ったものです。どれだけ速くなるかは、文章の長さがどれだけばらついているかで決まります。長さがそろっていれば、省けるパディングはありません。
#
# **次に読む:** [埋め込みモデルを学習する](search.ja.ipynb)、[モデルを事前学習する](pretraining.ja.ipynb)

# %% [markdown]
# # 自分の文章でモデルを事前学習する
#
# [![Colabで開く](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/ORG/llm-jp-modernbert/blob/main/examples/pretraining.ja.ipynb)
#
# 事前学習では、ラベルのない文章からモデルに言語を学ばせます。トークンを隠し、それを当てさせるのです。必要なのは、トークナイザ、文章、そして学習の設定をすべてまとめたレシピです。
#
# ここでは、とても小さなモデルを事前学習し、途中で強制終了して再開し、その経過を図にします。

# %%
# !pip show -q llm-jp-modernbert || pip install -q "llm-jp-modernbert[finetune]"

# %% tags=["parameters"]
STEPS = 200
SAVE_STEPS = 50

# %% [markdown]
# ## 文章とトークナイザを用意する
#
# 文章にはquickstartのデータを使います。自分のファイルも、1行に一つのJSONオブジェクトという同じ形式にします。公開されているトークナイザの語彙は10万トークンで、34,000字の文章には大きすぎます。そこで、同じ種類の小さなトークナイザを学習します。

# %%
import json
from pathlib import Path

from llm_jp_modernbert.quickstart.data import embedded_texts
from llm_jp_modernbert.tokenization import train_stand_in

texts = embedded_texts()
for name, documents in {"train": texts.train, "held-out": texts.held_out}.items():
    lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in documents]
    Path(f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
tokenizer = train_stand_in(texts.train, vocab_size=2000)
tokenizer.save_pretrained("my-tokenizer")
print(*tokenizer.tokenize("春になると、公園の花が咲きます。"))

# %% [markdown]
# ## レシピ
#
# `nano`は、付属するレシピの中で最も小さく、4層のモデルをCPUで学習できます。設定は`key=value`で変えられます。ここでは系列を短くし、ステップ数を減らし、チェックポイントをこまめに保存して、学習に使わない文章での測定も同じくらいの頻度で行います。

# %%
command = (
    "llm-jp-modernbert pretrain nano train_data=train.jsonl validation_data=held-out.jsonl tokenizer=my-tokenizer "
    f"output_dir=my-run sequence_length=128 max_steps={STEPS} save_steps={SAVE_STEPS} "
    f"eval_strategy=steps eval_steps={SAVE_STEPS // 2}"
)

# %% [markdown]
# ## 強制終了する
#
# 長い学習は、計算機の再起動やジョブの時間切れで中断されることがあります。そのとき何が起きるかを見るために、学習を始め、最初のチェックポイントができたら、プロセスを予告なしに終了させます。

# %%
import subprocess
import time

checkpoint = Path(f"my-run/checkpoint-{SAVE_STEPS}")
process = subprocess.Popen(command.split(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
while process.poll() is None and not checkpoint.exists():
    time.sleep(0.2)
process.kill()
process.wait()
print(f"Killed after {checkpoint}")

# %% [markdown]
# ## 再開する
#
# 同じコマンドに`resume_from_checkpoint=true`を付けて実行します。最後の完全なチェックポイントを見つけ、データの順序、マスク、最適化器の状態をそのまま引き継いで続けるので、**中断しなかった場合と同じ結果**になります。後片付けは要りません。

# %%
# !{command} resume_from_checkpoint=true

# %% [markdown]
# ## 図にする
#
# 学習の記録は`my-run/trainer_state.json`にあります。縦の点線は、強制終了したところです。

# %%
import matplotlib.pyplot as plt

history = json.loads(Path("my-run/trainer_state.json").read_text(encoding="utf-8"))["log_history"]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for axes, key, label in ((left, "loss", "loss"), (left, "eval_loss", "held-out loss")):
    points = [(entry["step"], entry[key]) for entry in history if key in entry]
    axes.plot(*zip(*points, strict=True), label=label)
points = [(entry["step"], 100 * entry["eval_masked_accuracy"]) for entry in history if "eval_masked_accuracy" in entry]
right.plot(*zip(*points, strict=True), marker="o", label="held-out accuracy, %")
for axes in (left, right):
    axes.axvline(SAVE_STEPS, linestyle=":", color="gray", label="killed and resumed")
    axes.set_xlabel("step")
    axes.set_ylim(0)
    axes.legend()
plt.show()

# %% [markdown]
# 曲線は途切れずに続いています。学習データの損失だけが下がり、学習に使わない文章の損失が下がらなくなったら、モデルは文章を暗記しているだけです。そのときに役立つのは、ステップを増やすことではなく、文章を増やすことです。
#
# ## 使ってみる
#
# 出力先のディレクトリは、そのままモデルとして使えます。もっと長い文章での2段階目の学習は、`llm-jp-modernbert pretrain nano-stage2 init_from=my-run …`で始められます。公開モデルも、このようにして8192トークンを読めるようになりました。

# %%
# !llm-jp-modernbert fill-mask my-run "父は台所で[MASK]を作ります。" --top-k 3

# %% [markdown]
# **次に読む:** [モデルを公開する](publishing.ja.ipynb)、[既存のモデルを適応させる](adaptation.ja.ipynb)（必要な文章がずっと少なくて済みます）

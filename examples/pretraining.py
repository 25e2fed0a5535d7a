# %% [markdown]
# # Pre-train a model from your own texts
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/ORG/llm-jp-modernbert/blob/main/examples/pretraining.ipynb)
#
# Pre-training teaches a model a language from plain text: tokens are hidden, and the model learns to guess them. You
# need a tokenizer, texts, and a recipe, which holds all settings of the run.
#
# You will pre-train a very small model, kill the run in the middle, resume it, and plot what happened.

# %%
# !pip show -q llm-jp-modernbert || pip install -q "llm-jp-modernbert[finetune]"

# %% tags=["parameters"]
STEPS = 200
SAVE_STEPS = 50

# %% [markdown]
# ## Texts and a tokenizer
#
# The texts are the quickstart's corpus; your own file has the same form, one JSON object per line. The published
# tokenizer has 100,000 tokens, far too many for 34,000 characters of text, so we train a small one of the same kind.

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
# ## The recipe
#
# `nano` is the smallest of the recipes that come with the package: a model of four layers that trains on a CPU.
# `key=value` changes a setting. We shorten the sequences and the run, save a checkpoint every few steps, and measure
# on held-out text as often.

# %%
command = (
    "llm-jp-modernbert pretrain nano train_data=train.jsonl validation_data=held-out.jsonl tokenizer=my-tokenizer "
    f"output_dir=my-run sequence_length=128 max_steps={STEPS} save_steps={SAVE_STEPS} "
    f"eval_strategy=steps eval_steps={SAVE_STEPS // 2}"
)

# %% [markdown]
# ## Kill it
#
# Long runs are interrupted: a machine restarts, or a job reaches its time limit. To see what happens then, we start
# the training, wait for its first checkpoint, and kill the process without a warning.

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
# ## Resume it
#
# Run **the same command** again. It finds the last complete checkpoint and continues with the same data order, masks
# and optimizer state, so the result is the same as without the interruption. There is nothing to clean up.

# %%
# !{command} resume_from_checkpoint=true

# %% [markdown]
# ## Plot it
#
# The training log is in `my-run/trainer_state.json`. The line marks where the run was killed.

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
# The curves continue without a jump. When the training loss falls and the held-out loss does not, the model only
# memorises its texts: then more text helps, and more steps do not.
#
# ## Use it
#
# The run's directory is a model. A second stage with longer texts would start from it with `llm-jp-modernbert
# pretrain nano-stage2 init_from=my-run …`, which is how the published model learned to read 8192 tokens.

# %%
# !llm-jp-modernbert fill-mask my-run "父は台所で[MASK]を作ります。" --top-k 3

# %% [markdown]
# **Next:** [publish the model](publishing.ipynb), or [adapt an existing model](adaptation.ipynb), which needs far
# less text.

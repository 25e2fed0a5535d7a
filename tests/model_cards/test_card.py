"""Model cards state all given facts and nothing else, in a form that the Hub accepts."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from checkpoints import write_checkpoint
from huggingface_hub import ModelCard, parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results
from markdown_it import MarkdownIt
from tiny_models import tiny_config
from transformers import ModernBertConfig, ModernBertForMaskedLM

from llm_jp_modernbert import LlmJpModernBertConfig
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.hub import Checkpoint
from llm_jp_modernbert.core.results import Row
from llm_jp_modernbert.model_cards.card import eval_result_files, model_card
from llm_jp_modernbert.model_cards.check import validate_card
from llm_jp_modernbert.model_cards.facts import (
    EvaluatedCheckpoint,
    Example,
    Exports,
    ModelFacts,
    Plot,
    Source,
    count_parameters,
)
from llm_jp_modernbert.model_cards.plots import plot_training
from llm_jp_modernbert.model_cards.research.finished import read_facts

FINISHED = Path(__file__).parents[2] / "model_cards"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG: dict[str, Any] = json.loads(
    tiny_config(
        checkpoint_format="plain", hidden_size=64, num_hidden_layers=4, max_position_embeddings=8192
    ).to_json_string(use_diff=False)
)


def row(**changes: Any) -> Row:
    defaults: dict[str, Any] = {
        "task": "jnli",
        "dataset": "JNLI",
        "dataset_revision": "sha256:0011",
        "split": "validation",
        "subset": "",
        "examples": 2434,
        "metric": "accuracy",
        "value": 0.6234,
        "higher_is_better": True,
        "low": 0.6011,
        "high": 0.6452,
        "baseline": 0.5546,
        "model": "/somewhere/private/model",
        "revision": "sha256:2233",
        "protocol": "default",
        "scale": 100,
        "settings": {"limit": None, "texts": "/somewhere/private/texts.jsonl"},
        "grid": [{"learning_rate": 5e-05, "epochs": 3, "value": 0.6}],
        "seed": 3,
        "versions": {},
    }
    return Row(**{**defaults, **changes})


def stage(**changes: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "stage": "stage1",
        "steps": 400,
        "max_steps": 400,
        "tokens": 816775,
        "padded_tokens": 919200,
        "labels": 244442,
        "documents": 113,
        "characters": 2017746,
        "rows_per_step": 2,
        "seconds": 439.8,
        "flops": 2.43e13,
        "hardware": {"device": "CPU", "devices": 1, "cores": 2},
        "versions": {"torch": "2.13.0"},
        "data": [{"name": "corpus", "weight": 3.0}, {"name": "org/texts", "config": "ja", "weight": 1.0}],
        "emissions_kg": 0.0123,
        "recipe": {
            "sequence_length": 1024,
            "mlm_probability": 0.3,
            "learning_rate": 2e-3,
            "lr_scheduler_type": "linear",
        },
        "curve": {
            "step": [100, 200, 400],
            "tokens": [200000, None, 816775],
            "loss": [8.0, None, 7.0],
            "eval_loss": [None, 7.5, None],
            "eval_masked_accuracy": [None, 0.071, None],
            "eval_baseline_accuracy": [None, 0.052, None],
        },
    }
    return {**defaults, **changes}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Release with every file that the complete card links to."""
    for name in ("assets/fill-mask.png", "assets/training.png", "onnx/model.onnx", "recipe.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def complete_facts(**changes: Any) -> ModelFacts:
    """Facts for every section of a card."""
    stage2 = stage(stage="stage2", tokens=100_000, emissions_kg=0.0077)
    stage2["recipe"] = {**stage2["recipe"], "sequence_length": 4096}
    defaults: dict[str, Any] = {
        "name": "org/some_model",
        "config": CONFIG,
        "dtype": "bfloat16",
        "license": "apache-2.0",
        "languages": ("ja", "en"),
        "datasets": ("org/texts",),
        "tokenizer": {"mask_token": "<MASK|LLM-jp>", "vocabulary_size": 1000, "model_max_length": 8192},
        "training": {"schema": 1, "stages": [stage(), stage2]},
        "recipe_file": "recipe.yaml",
        "rows": [
            row(),
            row(seed=4, value=0.6434),
            row(metric="f1", value=None),
            row(task="fill-mask", dataset="prompts", split="test", metric="mrr", value=0.0611, baseline=None),
            row(task="fill-mask", dataset="prompts", split="test", metric="mrr", value=0.2, subset="food"),
            row(task="retrieval", dataset="miracl/miracl", dataset_revision=COMMIT, metric="ndcg@10", value=0.2718),
        ],
        "curve": "assets/training.png",
        "plots": [Plot("assets/fill-mask.png", "fill-mask"), Plot("assets/training.png", "training")],
        "checkpoints": [Checkpoint("stage1-step-200", COMMIT, "stage1", 200, 407816)],
        "exports": Exports(("onnx/model.onnx",), True, "cls"),
        "examples": [Example("猫は<MASK|LLM-jp>。", [("好き", 0.214), ("犬", 0.1)])],
    }
    return ModelFacts(**{**defaults, **changes})


# Lines of the complete card, in this order.
COMPLETE_CARD = r"""
# org/some\_model
It accepts up to 8,192 tokens.
It was trained on 916,775 tokens in 2 stages.
It loads with plain `transformers`; no additional code is required.
## Usage
fill = pipeline("fill-mask", model="org/some_model")
for answer in fill("今日のご飯は<MASK|LLM-jp>である。"):
| `猫は<MASK\|LLM-jp>。` | `好き` 21.4%, `犬` 10.0% |
Embeddings use cls pooling, as set in `modules.json`. Fine-tune the model before relying on them.
model = SentenceTransformer("org/some_model")
inputs = tokenizer(text, truncation=True, max_length=4096, return_tensors="pt")
## Architecture
| Layers | 4 (2 global, 2 local) |
| Attention heads | 2 × 32 |
| RoPE theta, global / local | 10,000 / 10,000 |
| Weights | safetensors, bfloat16 |
## Training
| stage1 | `corpus` |  | 75.0% |
| stage1 | `org/texts` | ja | 25.0% |
|  | stage1 | stage2 |
| Sequence length | 1,024 tokens | 4,096 tokens |
| Learning rate | 0.002, linear | 0.002, linear |
| Optimizer steps | 400 | 400 |
| Tokens | 816,775 | 100,000 |
| Hardware | CPU, 2 cores | CPU, 2 cores |
| Training time | 7.3 min | 7.3 min |
| CO₂ equivalent | 12.3 g | 7.7 g |
![Loss, learning rate and held-out accuracy during training](assets/training.png)
<details><summary>Recipe of stage2</summary>
sequence_length: 4096
## Evaluation
| fill-mask | prompts, test | 2,434 | default | mrr ↑ | 6.1 | 60.1 to 64.5 |  |
| jnli | JNLI, validation | 2,434 | default | accuracy ↑ | 63.3 ± 1.4 |  | 55.5 |
| retrieval | miracl/miracl, validation | 2,434 | default | ndcg@10 ↑ | 27.2 | 60.1 to 64.5 | 55.5 |
| fill-mask, food | prompts, test | 2,434 | default | mrr ↑ | 20.0 | 60.1 to 64.5 | 55.5 |
![fill-mask](assets/fill-mask.png)
## Checkpoints
| `stage1-step-200` | stage1 | 200 | 407,816 |
## Other formats
* ONNX: [onnx/model.onnx](onnx/model.onnx), with dynamic batch size and sequence length.
## Limitations and biases
* The model accepts 8,192 tokens but was trained on sequences of at most 4,096; quality degrades on longer inputs.
## Reproduction
# DATA: folder with the evaluation data
hf download org/some_model recipe.yaml --local-dir .
llm-jp-modernbert pretrain recipe.yaml init_from=runs/stage1 \
    --tasks jnli --data-dir DATA --seed 3 --learning-rate 5e-05 --epochs 3
## License and citation
  eprint        = {2504.15544},
"""


def test_complete_card(release: Path) -> None:
    card = model_card(complete_facts())
    lines = iter(card.text.splitlines())
    for expected in COMPLETE_CARD.strip().splitlines():
        assert expected in lines, f"missing or in another order: {expected}"
    headings = re.findall(r"^## .*$", card.text, re.MULTILINE)
    assert headings == re.findall(r"^## .*$", COMPLETE_CARD, re.MULTILINE)
    assert "学習に用いたトークン数は約91.7万です。" in card.text
    assert (
        "is correct for 7.1% of the masked tokens; always predicting the most frequent token is correct for 5.2%."
        in card.text
    )
    assert card.text.count("training.png") == 1
    validate_card(card, release)


def test_equal_facts_render_to_equal_bytes() -> None:
    assert str(model_card(complete_facts())) == str(model_card(complete_facts()))


def test_metadata_survive_parsing() -> None:
    facts = complete_facts()
    data = ModelCard(str(model_card(facts))).data
    assert data.language == ["ja", "en"]
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "transformers", "fill-mask")
    assert data.datasets == ["org/texts"]
    assert {"modernbert", "fill-mask", "japanese", "long-context", "onnx", "sentence-transformers"} <= set(data.tags)
    # The Hub expects grams.
    assert data.co2_eq_emissions["emissions"] == pytest.approx(20.0)
    name, results = model_index_to_eval_results(data.to_dict()["model-index"])
    assert name == facts.name
    rows = [row for row in facts.rows if row.value is not None and not row.subset]
    parsed = {(r.dataset_name, r.dataset_split, r.metric_type, r.metric_value, r.metric_name) for r in results}
    assert parsed == {
        (row.dataset, row.split, row.metric, row.value, f"{row.task} {row.metric} (default protocol, seed {row.seed})")
        for row in rows
    }
    assert len(results) == len(rows)
    (on_hub,) = [result for result in results if result.dataset_type == "miracl/miracl"]
    assert on_hub.dataset_revision == COMMIT


def test_metadata_contain_headline_metrics_only() -> None:
    """The values in the table of checkpoints; for a task without any of these, those of the whole dataset."""
    fill_mask = {"task": "fill-mask", "dataset": "fill-mask prompts", "split": "test", "metric": "top1_accuracy"}
    perplexity = {"task": "pseudo-perplexity", "dataset": "texts.jsonl", "split": "all", "metric": "pseudo_perplexity"}
    rows = [
        row(**fill_mask, value=0.1),
        row(**{**fill_mask, "metric": "mrr"}, value=0.2),
        row(**fill_mask, value=0.3, subset="food"),
        *(row(**perplexity, value=4.0 + n, subset=f"context-{512 << n}", context=512 << n) for n in range(6)),
        row(value=0.7),
        row(value=0.8, split="dev"),
        row(value=float("nan"), task="jcola"),
        row(metric="recall", value=0.6, task="a task of another package", settings={"limit": 100}),
    ]
    results = model_card(complete_facts(rows=rows)).data.eval_results
    assert {(result.metric_type, result.metric_value) for result in results} == {
        ("top1_accuracy", 0.1),
        ("pseudo_perplexity", 5.0),
        ("pseudo_perplexity", 8.0),
        ("accuracy", 0.7),
        ("recall", 0.6),
    }
    assert "limit 100" in str(results[-1].metric_name)
    assert all(result.metric_args is None for result in results)


@pytest.mark.parametrize(
    "name",
    [
        "fill-mask prompts",
        "JaQuAD paragraphs of one article",
        "JSTS trained on F+G",
        "JSTS, JNLI, JCoLA",
        "A + B",
        "日本語の文書",
        "org/name/config",
        "a/b/c/d",
        " ",
        "../texts.jsonl",
        "改行\n",
    ],
)
def test_any_dataset_name_gives_a_valid_type(release: Path, name: str) -> None:
    """The pattern is quoted in github.com/embeddings-benchmark/mteb/issues/1111."""
    card = model_card(complete_facts(rows=[row(dataset=name)]))
    (result,) = card.data.eval_results
    assert re.fullmatch(r"(?:[\w-]+/)?[\w.-]+", result.dataset_type, re.ASCII)
    assert result.dataset_name == name
    validate_card(card, release)
    if not re.fullmatch(r"(?:[\w-]+/)?[\w.-]+", name, re.ASCII):
        result.dataset_type = name
        with pytest.raises(UsageError, match="invalid dataset type"):
            validate_card(ModelCard(f"---\n{card.data.to_yaml()}\n---\n\n{card.text}"), release)


def test_examples_contain_the_mask_token_of_the_tokenizer() -> None:
    card = model_card(complete_facts(examples=[Example("猫は[MASK]。", [("好き", 0.2)])]))
    assert r"| `猫は<MASK\|LLM-jp>。` |" in card.text
    assert "[MASK]" not in card.text


def test_eval_result_files_contain_results_on_hub_datasets_only() -> None:
    files = eval_result_files(complete_facts())
    assert list(files) == [".eval_results/miracl--miracl.yaml"]
    (entry,) = parse_eval_result_entries(yaml.safe_load(*files.values()))
    assert (entry.dataset_id, entry.dataset_revision, entry.value) == ("miracl/miracl", COMMIT, 0.2718)


def test_card_contains_no_local_path() -> None:
    assert "/somewhere" not in str(model_card(complete_facts()))


def test_unknown_facts_are_omitted() -> None:
    card = model_card(ModelFacts("org/bare", CONFIG))
    headings = re.findall(r"^## (.*)$", card.text, re.MULTILINE)
    assert headings == ["Usage", "Architecture", "Limitations and biases", "License and citation"]
    assert "None" not in card.text
    assert not re.search(r"\n{3}", card.text)
    assert {"model-index", "datasets", "base_model", "co2_eq_emissions", "mask_token"}.isdisjoint(card.data.to_dict())
    # Emissions of one stage are not the total.
    partial = model_card(complete_facts(training={"stages": [stage(), stage(stage="stage2", emissions_kg=None)]}))
    assert "co2_eq_emissions" not in partial.data.to_dict()
    # Unknown token counts are not zero.
    unknown = model_card(complete_facts(training={"stages": [stage(), stage(stage="stage2", tokens=None)]}))
    assert "It was trained on" not in unknown.text


def test_evaluation_has_one_line_per_metric() -> None:
    rows = [row(task=task, dataset=task, value=0.5) for task in ("jnli", "jcola", "ner")]
    for count in range(4):
        card = model_card(complete_facts(rows=rows[:count], plots=[]))
        evaluation = card.text.partition("## Evaluation")[2].partition("\n## ")[0]
        assert len(re.findall(r"^\| (?:jnli|jcola|ner) ", evaluation, re.MULTILINE)) == count
        assert ("has not been evaluated yet" in card.text) == (count == 0)


@pytest.mark.parametrize(
    ("baseline", "sentence"),
    [(0.052, "Both are measured on the same masked tokens"), (0.031, "Each stage is measured on different masked")],
)
def test_card_states_whether_held_out_losses_are_comparable_across_stages(baseline: float, sentence: str) -> None:
    second = stage(stage="stage2")
    second["curve"] = {**second["curve"], "eval_baseline_accuracy": [None, baseline, None]}
    checkpoints = [EvaluatedCheckpoint(name, name, 400, 816775, 7.5, 0.071) for name in ("stage1", "stage2")]
    card = model_card(complete_facts(training={"stages": [stage(), second]}, evaluated_checkpoints=checkpoints))
    assert sentence in card.text


def test_results_of_different_weights_raise() -> None:
    with pytest.raises(UsageError, match="two different results for jnli accuracy"):
        model_card(complete_facts(rows=[row(), row(value=0.7, revision="sha256:4455")]))


def test_published_results_name_their_source() -> None:
    source = Source("arXiv:2504.15544", "https://arxiv.org/abs/2504.15544")
    rows = [row(), row(metric="mcc", value=0.4, settings={"read_off_a_plot": True})]
    card = model_card(complete_facts(source=source, rows=rows))
    assert "[arXiv:2504.15544](https://arxiv.org/abs/2504.15544)" in card.text
    assert re.search(r"mcc ↑ \| ≈ 0\.4 \|", card.text)
    assert {result.source_url for result in card.data.eval_results} == {source.url}
    # The publication does not state seeds.
    assert all("seed" not in result.metric_name for result in card.data.eval_results)


MARKUP = (
    "a|b\n# c <script>alert(1)</script> [x](javascript:alert(1)) ![i](http://e/i.png) `d` http://e.example"
    " www.e.example --- {{ 7*7 }}"
)


class Page(HTMLParser):
    """Tags, link and image targets, and text outside code of an HTML page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: set[str] = set()
        self.prose: list[str] = []
        self._within: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses |= {str(value) for name, value in attrs if name in ("href", "src")}
        self._within.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._within:
            del self._within[len(self._within) - 1 - self._within[::-1].index(tag) :]

    def handle_data(self, data: str) -> None:
        if "code" not in self._within:
            self.prose.append(data)


def rendered(card: ModelCard) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(card.text)


def facts_with_markup() -> Iterator[ModelFacts]:
    """Facts whose names contain Markdown, HTML, YAML and template syntax."""
    for text in (MARKUP, f"x\n```\n{MARKUP}", "x: [y\n---\nlicense: other", "'\"\\|``"):
        bad = stage(data=[{"name": text, "config": text}], versions={text: text}, stage=text)
        bad["recipe"] = {**bad["recipe"], "lr_scheduler_type": text, "model": text}
        yield complete_facts(
            name=text,
            tokenizer={"mask_token": text},
            training={"stages": [bad]},
            rows=[row(dataset=text, task=text, metric=text, split=text, protocol=text, settings={text: text})],
            checkpoints=[Checkpoint(text, "", text, 1, None)],
            examples=[Example(text, [(text, 0.5)])],
            remarks=(text,),
        )


@pytest.mark.parametrize("facts", facts_with_markup())
def test_markup_in_facts_is_escaped(facts: ModelFacts) -> None:
    card = model_card(facts)
    page, usual = Page(rendered(card)), Page(rendered(model_card(complete_facts())))
    assert page.tags <= usual.tags
    assert page.addresses <= usual.addresses
    # No additional headings, tables or columns.
    for kind in ("<h1>", "<h2>", "<table>", "<details>"):
        assert rendered(card).count(kind) == rendered(
            model_card(replace(complete_facts(), **plain_counterpart()))
        ).count(kind)
    parsed = ModelCard(str(card))
    assert parsed.data.to_dict() == card.data.to_dict()
    assert parsed.data.license == "apache-2.0"
    # Renderers also link bare addresses.
    assert not any(re.search(r"https?:|www\.", stretch) for stretch in page.prose)
    # Template syntax is not evaluated.
    assert ("{{ 7*7 }}" in "".join(page.prose)) == ("{{ 7*7 }}" in facts.name)


def plain_counterpart() -> dict[str, Any]:
    """As many facts as in `facts_with_markup`, without markup."""
    return {
        "training": {"stages": [stage()]},
        "rows": [row()],
        "remarks": ("harmless",),
        "checkpoints": [Checkpoint("r", "", "s", 1, None)],
    }


def test_parameter_count_equals_that_of_transformers() -> None:
    config = ModernBertConfig(**{key: value for key, value in CONFIG.items() if key != "model_type"})
    with torch.device("meta"):
        expected = sum(p.numel() for p in ModernBertForMaskedLM(config).parameters())
    assert sum(count_parameters(CONFIG).values()) == expected
    native = LlmJpModernBertConfig().to_dict()
    # The size given in the paper.
    assert sum(count_parameters(native).values()) == 187_494_646
    with pytest.raises(UsageError, match="model_type 'bert'"):
        count_parameters({"model_type": "bert"})


def test_code_in_the_card_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentence_transformers")
    checkpoint = write_checkpoint(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"text": text, "label": label}, ensure_ascii=False) for label, text in enumerate(("雨", "雪"))]
    (tmp_path / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    config = json.loads((checkpoint / "config.json").read_text())
    mask = json.loads((checkpoint / "tokenizer_config.json").read_text())["mask_token"]
    card = model_card(ModelFacts(str(checkpoint), config, tokenizer={"mask_token": mask}))
    blocks = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        block = block.replace('TrainingArguments("finetuned")', 'TrainingArguments("out", use_cpu=True, report_to=[])')
        variables: dict[str, Any] = {}
        exec(block, variables)
    assert variables["hidden_states"].shape == (1, 64, config["hidden_size"])


def test_only_native_releases_need_trust_remote_code() -> None:
    config = tiny_config(checkpoint_format="native").to_dict()
    assert "trust_remote_code" not in model_card(complete_facts()).text
    card = model_card(complete_facts(config=config, format="native"))
    assert card.text.count("trust_remote_code=True") == 7
    assert "custom_code" in card.data.tags


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"license": "apache2"}, "license 'apache2'"),
        ({"languages": ("japanese",)}, "language 'japanese'"),
        ({"languages": ("jp",)}, "language 'jp'"),
        ({"languages": ("zh-CN",)}, "language 'zh-CN'"),
        ({"datasets": ("/data/texts",)}, "'/data/texts'"),
        ({"datasets": ("no such/name",)}, "'no such/name'"),
        ({"base_model": "../up"}, "'../up'"),
        ({"curve": "assets/missing.png"}, "assets/missing.png, which is not in the release"),
        ({"exports": Exports(("../../outside.onnx",))}, "../../outside.onnx, which is not in the release"),
    ],
)
def test_cards_that_the_hub_rejects_raise(release: Path, changes: dict[str, Any], message: str) -> None:
    (release.parent / "outside.onnx").write_bytes(b"")
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        validate_card(model_card(complete_facts(**changes)), release)
    assert "\n" not in str(error.value)


def test_training_plot_needs_a_curve_and_is_reproducible(tmp_path: Path) -> None:
    assert plot_training({"stages": [stage(curve={})]}, tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    path = plot_training({"stages": [stage(), stage(stage="stage2")]}, tmp_path)
    assert path == "assets/training.png"
    first = (tmp_path / path).read_bytes()
    assert first.startswith(b"\x89PNG")
    assert plot_training({"stages": [stage(), stage(stage="stage2")]}, tmp_path) == path
    assert (tmp_path / path).read_bytes() == first


def test_limitations_depend_on_training_tokens() -> None:
    large = LlmJpModernBertConfig(checkpoint_format="plain").to_dict()
    warnings = ("not suitable for real use", "lower quality than comparable models")
    for tokens, expected in ((int(1e6), warnings[:1]), (int(1e9), warnings[1:]), (int(1e12), ())):
        text = model_card(complete_facts(config=large, training={"stages": [stage(tokens=tokens)]})).text
        assert tuple(warning for warning in warnings if warning in text) == expected


@pytest.mark.parametrize("folder", sorted(path.parent for path in FINISHED.glob("*/card.json")), ids=lambda p: p.name)
def test_finished_cards_are_up_to_date(folder: Path) -> None:
    card = model_card(read_facts(folder))
    assert (folder / "README.md").read_text(encoding="utf-8") == str(card), (
        f"render it again: python -m llm_jp_modernbert.model_cards.research.finished {folder}"
    )
    validate_card(card, folder)


def test_paper_card_and_paper_recipes_agree() -> None:
    from llm_jp_modernbert.training.recipe.loading import load_recipe

    stages = read_facts(FINISHED / "llm-jp-modernbert-base").stages
    assert [stage["recipe_name"] for stage in stages] == ["paper-stage1", "paper-stage2"]
    for stage in stages:
        paths = [f"{key}=x" for key in ("output_dir", "train_data", "validation_data", "tokenizer", "init_from")]
        arguments = load_recipe(stage["recipe_name"], [*paths, "use_cpu=true", "model=null"])
        assert stage["steps"] == arguments.max_steps
        for key, value in stage["recipe"].items():
            if key != "optim":
                assert getattr(arguments, key) == value, key
    # Sequences per device × accumulation steps × GPUs.
    assert [stage["rows_per_step"] for stage in stages] == [26 * 8 * 16, 3 * 8 * 16]


# Prints the arguments of each command instead of running it, a null byte after each.
SHELL = """
llm-jp-modernbert() { printf '%s\\0' "$@" END; }
python() { :; }
pip() { :; }
hf() { :; }
"""


@pytest.mark.parametrize("folder", sorted(path.parent for path in FINISHED.glob("*/card.json")), ids=lambda p: p.name)
def test_commands_in_finished_cards_are_valid(folder: Path) -> None:
    """The shell expands their variables; options and recipe keys exist, and their values are accepted."""
    import typer

    from llm_jp_modernbert.cli import app
    from llm_jp_modernbert.training.recipe.loading import load_recipe

    (block,) = re.findall(r"```bash\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    output = subprocess.run(["bash", "-euc", SHELL + block], capture_output=True, text=True, check=True).stdout
    commands = [command.strip("\0").split("\0") for command in output.split("\0END\0") if command]
    assert len(commands) >= 4
    group: Any = typer.main.get_command(app)
    for job, *arguments in commands:
        with group.commands[job].make_context(job, list(arguments)):
            if job == "pretrain":
                load_recipe(arguments[0], [*arguments[1:], "use_cpu=true", "validation_data=x", "bf16=false"])

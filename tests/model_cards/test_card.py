"""A card says what it was given, all of it and nothing else, in a form that the Hub reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from checkpoints import write_checkpoint
from huggingface_hub import ModelCard, parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results
from markdown_it import MarkdownIt
from transformers import ModernBertConfig, ModernBertForMaskedLM

from llm_jp_modernbert import LlmJpModernBertConfig
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.hub import Checkpoint
from llm_jp_modernbert.evaluation.report.results import Row
from llm_jp_modernbert.model_cards.about import About, Example, Exports, Picture, Source, State
from llm_jp_modernbert.model_cards.card import model_card
from llm_jp_modernbert.model_cards.check import validate_card
from llm_jp_modernbert.model_cards.facts import parameters
from llm_jp_modernbert.model_cards.metadata import eval_result_files
from llm_jp_modernbert.model_cards.plots import plot_training
from llm_jp_modernbert.model_cards.research.finished import about_folder

FINISHED = Path(__file__).parents[2] / "model_cards"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG: dict[str, Any] = json.loads(
    LlmJpModernBertConfig(
        checkpoint_format="plain",
        vocab_size=1000,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=2,
        max_position_embeddings=8192,
    ).to_json_string(use_diff=False)
)


def row(**changes: Any) -> Row:
    known: dict[str, Any] = {
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
        "protocol": "improved",
        "scale": 100,
        "settings": {"limit": None, "texts": "/somewhere/private/texts.jsonl"},
        "grid": [{"learning_rate": 5e-05, "epochs": 3, "value": 0.6}],
        "seed": 3,
        "versions": {},
    }
    return Row(**{**known, **changes})


def stage(**changes: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
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
    return {**known, **changes}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """The files that the whole card points to."""
    for name in ("assets/fill-mask.png", "assets/training.png", "onnx/model.onnx", "recipe.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def whole(**changes: Any) -> About:
    long = stage(stage="stage2", tokens=100_000, emissions_kg=0.0077)
    long["recipe"] = {**long["recipe"], "sequence_length": 4096}
    known: dict[str, Any] = {
        "name": "org/some_model",
        "config": CONFIG,
        "dtype": "bfloat16",
        "datasets": ("org/texts",),
        "tokenizer": {"mask_token": "<MASK|LLM-jp>", "vocabulary_size": 1000, "model_max_length": 8192},
        "training": {"schema": 1, "stages": [stage(), long]},
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
        "plots": [Picture("assets/fill-mask.png", "fill-mask"), Picture("assets/training.png", "training")],
        "checkpoints": [Checkpoint("stage1-step-200", COMMIT, "stage1", 200, 407816)],
        "exports": Exports(("onnx/model.onnx",), True, "cls"),
        "examples": [Example("猫は<MASK|LLM-jp>。", [("好き", 0.214), ("犬", 0.1)])],
    }
    return About(**{**known, **changes})


# Lines of the whole card in their order, given the facts above.
WHOLE = r"""
# org/some\_model
It reads up to 8,192 tokens at once.
It was trained on 916,775 tokens in 2 stages.
It loads with plain `transformers`; no other code is needed.
## How to use
fill = pipeline("fill-mask", model="org/some_model")
for answer in fill("今日のご飯は<MASK|LLM-jp>である。"):
| `猫は<MASK\|LLM-jp>。` | `好き` 21.4%, `犬` 10.0% |
Sentence embeddings (cls pooling, as `modules.json` says); fine-tune before relying on them:
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
| Optimizer steps | 400 | 400 |
| Tokens read | 816,775 | 100,000 |
| Learning rate | 0.002, linear | 0.002, linear |
| Hardware | CPU, 2 cores | CPU, 2 cores |
| Time | 7.3 min | 7.3 min |
| CO₂ equivalent | 12.3 g | 7.7 g |
![Loss, learning rate and held-out accuracy in the course of training](assets/training.png)
<details><summary>Recipe of stage2</summary>
sequence_length: 4096
## Evaluation
| fill-mask | prompts, test | 2,434 | improved | mrr ↑ | 6.1 | 60.1 to 64.5 |  |
| jnli | JNLI, validation | 2,434 | improved | accuracy ↑ | 63.3 ± 1.4 |  | 55.5 |
| retrieval | miracl/miracl, validation | 2,434 | improved | ndcg@10 ↑ | 27.2 | 60.1 to 64.5 | 55.5 |
| fill-mask, food | prompts, test | 2,434 | improved | mrr ↑ | 20.0 | 60.1 to 64.5 | 55.5 |
![fill-mask](assets/fill-mask.png)
## Checkpoints
| `stage1-step-200` | stage1 | 200 | 407,816 |
## Other forms
* ONNX: [onnx/model.onnx](onnx/model.onnx), batch and length dynamic.
## Limits and biases
* It takes 8,192 tokens but was never trained on more than 4,096: beyond that length its answers get worse.
## Reproduce
# DATA: the folder of the evaluations' data
hf download org/some_model recipe.yaml --local-dir .
llm-jp-modernbert pretrain recipe.yaml init_from=runs/stage1 \
    --tasks jnli --data-dir DATA --seed 3 --learning-rate 5e-05 --epochs 3
## Licence and citation
  eprint        = {2504.15544},
"""


def test_a_whole_card(release: Path) -> None:
    card = model_card(whole())
    lines = iter(card.text.splitlines())
    for expected in WHOLE.strip().splitlines():
        assert expected in lines, f"missing, or not in this place: {expected}"
    headings = re.findall(r"^## .*$", card.text, re.MULTILINE)
    assert headings == re.findall(r"^## .*$", WHOLE, re.MULTILINE)
    assert "学習で読んだのは約91.7万トークンです。" in card.text
    assert "right in 7.1%; the commonest token alone would be right in 5.2%." in card.text
    assert card.text.count("training.png") == 1
    validate_card(card, release)


def test_equal_facts_give_equal_bytes() -> None:
    assert str(model_card(whole())) == str(model_card(whole()))


def test_metadata_read_back_as_they_were_given() -> None:
    about = whole()
    again = ModelCard(str(model_card(about))).data
    assert again.language == ["ja", "en"]
    assert (again.license, again.library_name, again.pipeline_tag) == ("apache-2.0", "transformers", "fill-mask")
    assert again.datasets == ["org/texts"]
    assert {"modernbert", "fill-mask", "japanese", "long-context", "onnx", "sentence-transformers"} <= set(again.tags)
    # In grams, as the Hub has it.
    assert again.co2_eq_emissions["emissions"] == pytest.approx(20.0)
    name, results = model_index_to_eval_results(again.to_dict()["model-index"])
    assert name == about.name
    given = [one for one in about.rows if one.value is not None]
    found = {(r.dataset_name, r.dataset_split, r.metric_type, r.metric_value, r.metric_args["seed"]) for r in results}
    assert found == {(one.dataset, one.split, one.metric, one.value, one.seed) for one in given}
    assert len(results) == len(given)
    (hub,) = [result for result in results if result.dataset_type == "miracl/miracl"]
    assert hub.dataset_revision == COMMIT


def test_results_in_the_newer_form_are_those_of_hub_datasets() -> None:
    files = eval_result_files(whole())
    assert list(files) == [".eval_results/miracl--miracl.yaml"]
    (entry,) = parse_eval_result_entries(yaml.safe_load(*files.values()))
    assert (entry.dataset_id, entry.dataset_revision, entry.value) == ("miracl/miracl", COMMIT, 0.2718)


def test_no_place_of_the_machine_is_told() -> None:
    assert "/somewhere" not in str(model_card(whole()))


def test_what_is_not_known_is_left_out() -> None:
    card = model_card(About("org/bare", CONFIG))
    headings = re.findall(r"^## (.*)$", card.text, re.MULTILINE)
    assert headings == ["How to use", "Architecture", "Limits and biases", "Licence and citation"]
    assert "None" not in card.text
    assert not re.search(r"\n{3}", card.text)
    assert {"model-index", "datasets", "base_model", "co2_eq_emissions", "mask_token"}.isdisjoint(card.data.to_dict())
    # Emissions of one stage alone would pass for those of all.
    half = model_card(whole(training={"stages": [stage(), stage(stage="stage2", emissions_kg=None)]}))
    assert "co2_eq_emissions" not in half.data.to_dict()
    # Tokens of which nothing is known are not counted as none.
    unknown = model_card(whole(training={"stages": [stage(), stage(stage="stage2", tokens=None)]}))
    assert "It was trained on" not in unknown.text


def test_figures_stand_in_the_card_if_and_only_if_there_is_a_row() -> None:
    """A row of the table for each figure, whatever the number of seeds."""
    some = [row(task=task, dataset=task, value=0.5) for task in ("jnli", "jcola", "ner")]
    for count in range(4):
        card = model_card(whole(rows=some[:count], plots=[]))
        evaluation = card.text.partition("## Evaluation")[2].partition("\n## ")[0]
        assert len(re.findall(r"^\| (?:jnli|jcola|ner) ", evaluation, re.MULTILINE)) == count
        assert ("Nothing was measured of it yet" in card.text) == (count == 0)


@pytest.mark.parametrize(("baseline", "told"), [(0.052, "the same masked tokens"), (0.031, "other masked tokens")])
def test_states_are_compared_by_the_same_held_out_tokens_alone(baseline: float, told: str) -> None:
    """Stages that hold out different texts have no losses to be compared."""
    second = stage(stage="stage2")
    second["curve"] = {**second["curve"], "eval_baseline_accuracy": [None, baseline, None]}
    states = [State(name, name, 400, 816775, 7.5, 0.071, 1024) for name in ("stage1", "stage2")]
    card = model_card(whole(training={"stages": [stage(), second]}, states=states))
    assert f"Held-out loss (nats) and accuracy are of {told}" in card.text


def test_two_states_of_a_model_are_not_mixed() -> None:
    with pytest.raises(UsageError, match="two results for jnli accuracy"):
        model_card(whole(rows=[row(), row(value=0.7, revision="sha256:4455")]))


def test_the_authors_figures_are_marked_as_theirs() -> None:
    source = Source("arXiv:2504.15544", "https://arxiv.org/abs/2504.15544")
    rows = [row(), row(metric="mcc", value=0.4, settings={"read_off_a_plot": True})]
    card = model_card(whole(source=source, rows=rows))
    assert "[arXiv:2504.15544](https://arxiv.org/abs/2504.15544)" in card.text
    assert re.search(r"mcc ↑ \| ≈ 0\.4 \|", card.text)
    assert {result.source_url for result in card.data.eval_results} == {source.url}
    # Nobody told their seeds.
    assert all("seed" not in result.metric_args for result in card.data.eval_results)


NASTY = (
    "a|b\n# c <script>alert(1)</script> [x](javascript:alert(1)) ![i](http://e/i.png) `d` http://e.example"
    " www.e.example --- {{ 7*7 }}"
)


class Page(HTMLParser):
    """The tags of a page, where its links and images point to, and its text outside code, each stretch by itself."""

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


def nasty() -> Iterator[About]:
    for text in (NASTY, f"x\n```\n{NASTY}", "x: [y\n---\nlicense: other", "'\"\\|``"):
        bad = stage(data=[{"name": text, "config": text}], versions={text: text}, stage=text)
        bad["recipe"] = {**bad["recipe"], "lr_scheduler_type": text, "model": text}
        yield whole(
            name=text,
            tokenizer={"mask_token": text},
            training={"stages": [bad]},
            rows=[row(dataset=text, task=text, metric=text, split=text, protocol=text, settings={text: text})],
            checkpoints=[Checkpoint(text, "", text, 1, None)],
            examples=[Example(text, [(text, 0.5)])],
            remarks=(text,),
        )


@pytest.mark.parametrize("about", nasty())
def test_text_from_elsewhere_is_shown_and_does_nothing(about: About) -> None:
    card = model_card(about)
    page, usual = Page(rendered(card)), Page(rendered(model_card(whole())))
    assert page.tags <= usual.tags
    assert page.addresses <= usual.addresses
    # Nothing has begun a heading, a table or a column of its own.
    for kind in ("<h1>", "<h2>", "<table>", "<details>"):
        assert rendered(card).count(kind) == rendered(model_card(replace(whole(), **shape(about)))).count(kind)
    again = ModelCard(str(card))
    assert again.data.to_dict() == card.data.to_dict()
    assert again.data.license == "apache-2.0"
    # Renderers make links of bare addresses, too.
    assert not any(re.search(r"https?:|www\.", stretch) for stretch in page.prose)
    # What looks like a template is text.
    assert ("{{ 7*7 }}" in "".join(page.prose)) == ("{{ 7*7 }}" in about.name)


def shape(about: About) -> dict[str, Any]:
    """As many facts as a card of nasty texts has, of harmless ones."""
    return {
        "training": {"stages": [stage()]},
        "rows": [row()],
        "remarks": ("harmless",),
        "checkpoints": [Checkpoint("r", "", "s", 1, None)],
    }


def test_parameters_are_those_of_transformers() -> None:
    config = ModernBertConfig(**{key: value for key, value in CONFIG.items() if key != "model_type"})
    with torch.device("meta"):
        expected = sum(p.numel() for p in ModernBertForMaskedLM(config).parameters())
    assert sum(parameters(CONFIG).values()) == expected
    native = LlmJpModernBertConfig().to_dict()
    # The paper's model: embeddings, encoder, head.
    assert sum(parameters(native).values()) == 187_494_646
    with pytest.raises(UsageError, match="model_type 'bert'"):
        parameters({"model_type": "bert"})


def test_the_code_of_a_card_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentence_transformers")
    checkpoint = write_checkpoint(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"text": text, "label": label}, ensure_ascii=False) for label, text in enumerate(("雨", "雪"))]
    (tmp_path / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    config = json.loads((checkpoint / "config.json").read_text())
    mask = json.loads((checkpoint / "tokenizer_config.json").read_text())["mask_token"]
    card = model_card(About(str(checkpoint), config, tokenizer={"mask_token": mask}))
    blocks = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        # Three epochs of two examples, on the CPU and without a word.
        block = block.replace('TrainingArguments("finetuned")', 'TrainingArguments("out", use_cpu=True, report_to=[])')
        found: dict[str, Any] = {}
        exec(block, found)
    assert found["hidden_states"].shape == (1, 64, config["hidden_size"])


def test_native_code_is_asked_for_in_native_releases_alone() -> None:
    config = LlmJpModernBertConfig(**{**SMALL, "checkpoint_format": "native"}).to_dict()
    assert "trust_remote_code" not in model_card(whole()).text
    card = model_card(whole(config=config, format="native"))
    assert card.text.count("trust_remote_code=True") == 6
    assert "custom_code" in card.data.tags


SMALL: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 500}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"license": "apache2"}, "licence 'apache2'"),
        ({"languages": ("japanese",)}, "language 'japanese'"),
        ({"datasets": ("no such/name",)}, "'no such/name'"),
        ({"base_model": "../up"}, "'../up'"),
        ({"curve": "assets/missing.png"}, "assets/missing.png, which is not in the release"),
        ({"exports": Exports(("../../outside.onnx",))}, "../../outside.onnx, which is not in the release"),
    ],
)
def test_a_card_that_the_hub_would_refuse_is_told(release: Path, changes: dict[str, Any], told: str) -> None:
    (release.parent / "outside.onnx").write_bytes(b"")
    with pytest.raises(UsageError, match=re.escape(told)) as caught:
        validate_card(model_card(whole(**changes)), release)
    assert "\n" not in str(caught.value)


def test_training_is_plotted_where_there_is_a_curve(tmp_path: Path) -> None:
    assert plot_training({"stages": [stage(curve={})]}, tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    path = plot_training({"stages": [stage(), stage(stage="stage2")]}, tmp_path)
    assert path == "assets/training.png"
    first = (tmp_path / path).read_bytes()
    assert first.startswith(b"\x89PNG")
    assert plot_training({"stages": [stage(), stage(stage="stage2")]}, tmp_path) == path
    assert (tmp_path / path).read_bytes() == first


def test_limits_follow_from_what_the_model_has_read() -> None:
    large = LlmJpModernBertConfig(checkpoint_format="plain").to_dict()
    for tokens, told in ((int(1e6), "not to be relied on"), (int(1e9), "behind models of its size"), (int(1e12), "")):
        text = model_card(whole(config=large, training={"stages": [stage(tokens=tokens)]})).text
        found = [line for line in ("not to be relied on", "behind models of its size") if line in text]
        assert found == ([told] if told else [])


@pytest.mark.parametrize("folder", sorted(path.parent for path in FINISHED.glob("*/card.json")), ids=lambda p: p.name)
def test_finished_cards_are_what_their_facts_give(folder: Path) -> None:
    card = model_card(about_folder(folder))
    assert (folder / "README.md").read_text(encoding="utf-8") == str(card), (
        f"python -m llm_jp_modernbert.model_cards.research.finished {folder} renders it anew"
    )
    validate_card(card, folder)


def test_the_paper_s_training_is_that_of_its_recipes() -> None:
    from llm_jp_modernbert.training.recipe.loading import load_recipe

    stages = about_folder(FINISHED / "llm-jp-modernbert-base").stages
    assert [one["recipe_name"] for one in stages] == ["paper-stage1", "paper-stage2"]
    for one in stages:
        places = [f"{key}=x" for key in ("output_dir", "train_data", "validation_data", "tokenizer", "init_from")]
        arguments = load_recipe(one["recipe_name"], [*places, "use_cpu=true", "model=null"])
        assert one["steps"] == arguments.max_steps
        for key, value in one["recipe"].items():
            if key != "optim":
                assert getattr(arguments, key) == value, key
    assert SimpleNamespace(**stages[0]).rows_per_step == 26 * 8 * 16
    assert SimpleNamespace(**stages[1]).rows_per_step == 3 * 8 * 16

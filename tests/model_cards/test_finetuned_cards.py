"""Cards of models with other heads than a masked language model's state what is known about them."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from markdown_it import MarkdownIt
from test_card import COMMIT, MARKUP, Page, rendered
from test_usage import record
from tiny_models import tiny_config

from llm_jp_modernbert.core.results import Row
from llm_jp_modernbert.inference.heads import HEADS, Head
from llm_jp_modernbert.model_cards.card import eval_result_files, model_card
from llm_jp_modernbert.model_cards.check import validate_card
from llm_jp_modernbert.model_cards.facts import Exports, ModelFacts, Plot, count_parameters

LABELS = ("良い", "普通", "悪い")


def config(suffix: str, labels: tuple[str, ...] = (), **settings: Any) -> dict[str, Any]:
    """Content of config.json of a model with a head."""
    if labels:
        settings |= {"id2label": dict(enumerate(labels)), "label2id": {label: n for n, label in enumerate(labels)}}
    parsed = tiny_config(checkpoint_format="plain", max_position_embeddings=8192, **settings)
    return {**json.loads(parsed.to_json_string(use_diff=False)), "architectures": [f"ModernBert{suffix}"]}


def part(**changes: Any) -> dict[str, Any]:
    defaults = {"name": "train.csv", "revision": "sha256:0011", "rows": 5000, "truncated": 0, "tokens": 90_000}
    return {**defaults, "longest": 400, **changes}


PARTS = {"train": part(truncated=12), "validation": part(rows=600), "test": part(name="test.csv", rows=700)}


def label(name: str, count: int, **changes: Any) -> dict[str, Any]:
    counts = {"train": count, "validation": 60, "test": 70}
    return {"name": name, "counts": counts, "precision": 0.5, "recall": 0.25, "f1": 0.3333, **changes}


def seed(number: int, value: float) -> dict[str, Any]:
    """A training; only the published model, of seed 43, was measured on the test part."""
    metrics = {"macro_f1": value, "accuracy": value + 0.1}
    parts = ("validation", "test") if number == 43 else ("validation",)
    return {"seed": number, "epoch": 2.0, "metrics": dict.fromkeys(parts, metrics)}


def own_row(**changes: Any) -> Row:
    defaults: dict[str, Any] = {
        "task": "finetune-classification",
        "dataset": "test.csv",
        "dataset_revision": "sha256:0011",
        "split": "test",
        "metric": "macro_f1",
        "value": 0.7,
        "low": 0.65,
        "high": 0.75,
        "baseline": 0.3,
        "examples": 700,
        "scale": 100,
        "model": "/private/model",
        "protocol": "default",
        "seed": 43,
    }
    return Row(**{**defaults, **changes})


def classifier(**changes: Any) -> ModelFacts:
    """Facts for every section of a classifier's card."""
    finetuned = {
        "labels": [label("良い", 3000), label("普通", 1990), label("悪い", 10, f1=0.0)],
        "parts": PARTS,
        "best_seed": 43,
        "seeds": [seed(42, 0.5), seed(43, 0.7), seed(44, 0.6)],
        "confusion": [[5, 1, 0], [2, 6, 0], [3, 4, 0]],
        "max_length": 512,
        "device": "CPU, 2 cores",
        "versions": {"torch": "2.13.0"},
        **changes.pop("record", {}),
    }
    defaults: dict[str, Any] = {
        "name": "org/reviews",
        "config": config("ForSequenceClassification", LABELS),
        "license": "apache-2.0",
        "languages": ("ja",),
        "base_model": "org/base",
        "tokenizer": {"mask_token": "<MASK|LLM-jp>"},
        "record": record(**finetuned),
        "recipe": {
            "train": ["/private/train.csv"],
            "patience": 3,
            "layer_decay": 1.0,
            "arguments": {"learning_rate": 3e-5, "num_train_epochs": 4, "warmup_steps": 0.1, "bf16": False},
        },
        "rows": [own_row(), own_row(split="validation", low=0.66, high=0.74)],
        "plots": [Plot("assets/confusion.png", "confusion matrix")],
        "outputs": {"Classification": "{'良い': 0.93}\n"},
    }
    return ModelFacts(**{**defaults, **changes})


# Lines of the classifier's card, in this order.
CLASSIFIER_CARD = r"""
# org/reviews
Its labels are `良い`, `普通` and `悪い`.
It was fine-tuned from [org/base](https://huggingface.co/org/base) on 5,000 examples of `train.csv`.
On the 700 examples of the test part, its macro F1 is 70.0 (95% interval 65.0 to 75.0); the simplest guess reaches 30.0.
It accepts up to 8,192 tokens.
## Usage
classify = pipeline("text-classification", model="org/reviews", top_k=None)
Output:
{'良い': 0.93}
## Architecture
## Labels
| Label | In train | In validation | In test | Precision | Recall | F1 |
| `良い` | 3,000 | 60 | 70 | 50.0 | 25.0 | 33.3 |
## Training
| train | `train.csv` | `sha256:0011` | 5,000 | 90,000 | 400 | 12 |
Columns: text from `sentence`, label from `label`.
The validation part was held out from the training examples.
| Learning rate | 3e-05, warmup 10% of steps |
| Epochs, at most | 4 |
| Maximum input length | 512 tokens |
| Seeds | 42, 43, 44; published: 43 |
| Software | torch 2.13.0 |
- train.csv
## Evaluation
| Part | Metric | This model | 95% interval | Baseline | Mean ± sd, 3 seeds |
| test | macro F1 | 70.0 | 65.0 to 75.0 | 30.0 |  |
| test | accuracy | 80.0 |  |  |  |
| validation | macro F1 | 70.0 | 66.0 to 74.0 | 30.0 | 60.0 ± 10.0 |
| `普通` | 2 | 6 | 0 |
![confusion matrix](assets/confusion.png)
## Limitations and biases
* The seeds disagree: macro F1 on the validation part is between 50.0 and 70.0, a wider range than the interval of this model.
* Labels with fewer than 20 training examples: 悪い. Do not rely on them.
* Labels that the model never predicted correctly when it was measured: 悪い.
* Examples longer than 512 tokens were truncated: 12 of 5,000 in train.
* The model has seen inputs of at most 400 tokens. Longer ones have not been tested.
## Reproduction
llm-jp-modernbert finetune classification org/base \
    learning_rate=3e-05 warmup_steps=0.1 num_train_epochs=4 \
    --train DATA/train.csv --test DATA/test.csv \
    --text-column sentence --label-column label \
    --seed 42 --seeds 3 --max-length 512 --patience 3
## License and citation
"""  # noqa: E501


def test_complete_card_of_a_classifier(tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "confusion.png").write_bytes(b"")
    card = model_card(classifier())
    lines = iter(card.text.splitlines())
    for expected in CLASSIFIER_CARD.strip().splitlines():
        assert expected in lines, f"missing or in another order: {expected}"
    headings = re.findall(r"^## .*$", card.text, re.MULTILINE)
    assert headings == re.findall(r"^## .*$", CLASSIFIER_CARD, re.MULTILINE)
    assert "テキストを3種類のラベルのいずれかに分類する" in card.text
    assert "/private" not in str(card)
    assert not re.search(r"\n{3}", card.text)
    validate_card(card, tmp_path)
    assert str(card) == str(model_card(classifier()))


def test_mean_and_deviation_over_seeds_are_those_of_the_standard_library() -> None:
    values = [0.512, 0.734, 0.688]
    facts = classifier(record={"seeds": [seed(42 + n, value) for n, value in enumerate(values)]})
    mean, deviation = 100 * statistics.mean(values), 100 * statistics.stdev(values)
    assert f"| 73.4 | 66.0 to 74.0 | 30.0 | {mean:.1f} ± {deviation:.1f} |" in model_card(facts).text


def test_metadata_contain_results_of_the_last_part_only() -> None:
    data = ModelCard(str(model_card(classifier(rows=[*classifier().rows, own_row(seed=44, value=0.6)])))).data
    assert (data.pipeline_tag, data.library_name) == ("text-classification", "transformers")
    assert (data.base_model, data.base_model_relation) == ("org/base", "finetune")
    assert "fill-mask" not in data.tags
    (result,) = data.eval_results
    assert (result.task_type, result.metric_type, result.metric_value) == ("text-classification", "macro_f1", 0.7)
    assert result.dataset_split == "test"


def test_results_on_hub_datasets_become_eval_results() -> None:
    rows = [
        own_row(dataset="org/reviews-data", dataset_revision=COMMIT, split=split) for split in ("test", "validation")
    ]
    (content,) = eval_result_files(classifier(rows=rows)).values()
    (entry,) = parse_eval_result_entries(yaml.safe_load(content))
    assert (entry.dataset_id, entry.value) == ("org/reviews-data", 0.7)
    assert eval_result_files(classifier()) == {}


KINDS: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "classification": (
        {"config": config("ForSequenceClassification", LABELS)},
        "text-classification",
        "transformers",
        "It assigns one of 3 labels to a text.",
    ),
    "multi-label": (
        {"config": config("ForSequenceClassification", LABELS, problem_type="multi_label_classification")},
        "text-classification",
        "transformers",
        "It assigns any of 3 labels to a text.",
    ),
    "entailment": (
        {"config": config("ForSequenceClassification", ("entailment", "neutral", "contradiction"))},
        "text-classification",
        "transformers",
        "It assigns one of 3 labels to a pair of texts.",
    ),
    "regression": (
        {"config": config("ForSequenceClassification", ("LABEL_0",), problem_type="regression")},
        "text-classification",
        "transformers",
        "It gives a text a score.",
    ),
    "reranking": (
        {
            "config": config("ForSequenceClassification", ("LABEL_0",)),
            "exports": Exports(sentence_transformers=True, pooling=""),
        },
        "text-ranking",
        "sentence-transformers",
        "It scores how relevant a passage is to a query.",
    ),
    "ner": (
        {"config": config("ForTokenClassification", ("O", "B-人名", "I-人名", "B-地名", "I-地名"))},
        "token-classification",
        "transformers",
        "It marks entities of 2 types in a text.",
    ),
    "qa": (
        {"config": config("ForQuestionAnswering")},
        "question-answering",
        "transformers",
        "It finds the answer to a question in a passage.",
    ),
    "multiple-choice": (
        {"config": config("ForMultipleChoice")},
        "multiple-choice",
        "transformers",
        "It chooses the best of several answers to a question.",
    ),
    "embedding": (
        {"config": config("Model"), "exports": Exports(sentence_transformers=True)},
        "sentence-similarity",
        "sentence-transformers",
        "It maps texts to vectors of 32 dimensions, for search, clustering and similarity.",
    ),
    "encoder": (
        {"config": config("Model")},
        "feature-extraction",
        "transformers",
        "It maps each token of a text to a vector of 32 dimensions.",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_models_without_a_record_get_the_card_of_their_task(kind: str, tmp_path: Path) -> None:
    changes, pipeline_tag, library, purpose = KINDS[kind]
    card = model_card(ModelFacts(**{"name": "org/model", "languages": ("ja",), "base_model": "org/base", **changes}))
    assert (card.data.pipeline_tag, card.data.library_name) == (pipeline_tag, library)
    assert purpose in card.text
    assert "**概要：**" in card.text
    assert "has not been evaluated yet" in card.text
    assert "None" not in "".join(Page(rendered(card)).prose)
    assert not re.search(r"\n{3}", card.text)
    validate_card(card, tmp_path)


def test_cross_encoder_with_several_labels_belongs_to_sentence_transformers() -> None:
    changes = {**KINDS["entailment"][0], "exports": Exports(sentence_transformers=True, pooling="")}
    data = model_card(ModelFacts("org/model", **changes)).data
    assert (data.pipeline_tag, data.library_name) == ("text-classification", "sentence-transformers")
    assert "cross-encoder" in data.tags
    assert "sentence-similarity" not in data.tags


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.suffix)
def test_parameter_count_equals_that_of_transformers_for_every_head(head: Head) -> None:
    settings = {key: value for key, value in config(head.suffix, LABELS).items() if key != "model_type"}
    with torch.device("meta"):
        model = getattr(transformers, f"ModernBert{head.suffix}")(transformers.ModernBertConfig(**settings))
    expected = sum(parameter.numel() for parameter in model.parameters())
    assert sum(count_parameters(config(head.suffix, LABELS), head).values()) == expected


LIMITS: list[tuple[dict[str, Any], str]] = [
    (
        {"rows": [own_row(baseline=0.72)]},
        "is not better than the simplest guess: macro F1 70.0 (baseline 72.0)",
    ),
    (
        {"rows": [own_row(baseline=0.66)]},
        "is not clearly better than the simplest guess: macro F1 70.0 (baseline 66.0)",
    ),
    ({"record": {"seeds": [seed(43, 0.7)]}}, "trained with one seed"),
    (
        {"record": {"seeds": [seed(43, 0.7), seed(44, 0.5)]}},
        "macro F1 on the validation part is between 50.0 and 70.0",
    ),
    ({"record": {"parts": {"train": part(), "validation": part()}}}, "The data have no test part."),
    ({"record": {"parts": {**PARTS, "train": part(rows=120)}}}, "trained on 120 examples, which is few"),
    ({"record": {"parts": {**PARTS, "test": part(rows=50)}}}, "The test part has 50 examples"),
    ({"record": {"labels": [label("良い", 90, threshold=0.3)]}}, "Thresholds were tuned on the validation part."),
    (
        {"config": config("ForQuestionAnswering", no_answer_threshold=None), "record": {"kind": "qa", "labels": []}},
        "gives one to every question",
    ),
]


@pytest.mark.parametrize(("changes", "sentence"), LIMITS)
def test_limits_follow_from_the_record(changes: dict[str, Any], sentence: str) -> None:
    limits = model_card(classifier(**changes)).text.partition("## Limitations and biases")[2]
    assert sentence in limits
    healthy = {"seeds": [seed(43, 0.7), seed(44, 0.69)], "labels": [label("良い", 90)]}
    assert sentence not in model_card(classifier(record=healthy)).text


def test_confusion_matrix_of_entities_counts_those_without_counterpart() -> None:
    finetuned = {"kind": "ner", "labels": [label("人名", 900), label("地名", 900)]}
    facts = classifier(
        config=config("ForTokenClassification", ("O", "B-人名", "I-人名", "B-地名", "I-地名")),
        record={**finetuned, "confusion": [[5, 1, 2], [0, 6, 3], [7, 8, 0]]},
    )
    text = model_card(facts).text
    for line in ("| `人名` | 5 | 1 | 2 |", "| none | 7 | 8 | 0 |", "## Entity types"):
        assert line in text
    assert "Its types are `人名` and `地名`." in text


def test_labels_have_the_order_of_the_outputs() -> None:
    names = tuple(f"label {number}" for number in range(12))
    sorted_as_text = json.loads(json.dumps(config("ForSequenceClassification", names), sort_keys=True))
    table = model_card(ModelFacts("org/model", sorted_as_text)).text.partition("## Labels")[2]
    assert re.findall(r"label \d+", table) == list(names)


def test_correlations_are_compared_with_zero() -> None:
    """The correlation with a constant is undefined."""
    seeds = [{"seed": 43, "epoch": 1.0, "metrics": {"test": {"spearman": -0.2}}}]
    own = own_row(task="finetune-regression", metric="spearman", value=-0.2, low=-0.3, high=0.1, baseline=None)
    facts = classifier(
        config=config("ForSequenceClassification", ("LABEL_0",), problem_type="regression"),
        record={"kind": "regression", "metric": "spearman", "seeds": seeds, "labels": [], "confusion": None},
        rows=[own],
    )
    assert "is not better than the simplest guess: Spearman correlation -20.0 (baseline 0.0)" in model_card(facts).text


def test_command_repeats_the_columns_of_choices() -> None:
    columns = {"question": "q", "choice": "a, b", "label": "answer"}
    facts = classifier(
        config=config("ForMultipleChoice"), base_model=None, record={"kind": "multiple-choice", "columns": columns}
    )
    text = model_card(facts).text
    assert "llm-jp-modernbert finetune multiple-choice BASE_MODEL" in text
    assert "--question-column q --choice-column a --choice-column b --label-column answer" in text


def with_markup() -> Iterator[ModelFacts]:
    """Facts whose names contain Markdown, HTML, YAML and template syntax."""
    for text in (MARKUP, f"x\n```\n{MARKUP}", "x: [y\n---\nlicense: other", "'\"\\|``"):
        finetuned = {
            "labels": [label(text, 10, f1=0.0, threshold=0.5)],
            "parts": {name: part(name=text, revision=text) for name in PARTS},
            "columns": {"text": text, "label": text},
            "base": text,
            "device": text,
            "versions": {text: text},
            "confusion": [[1]],
        }
        yield classifier(
            base_model=None,
            record=finetuned,
            recipe={"learning_rate": text, text: text},
            outputs={"Classification": text},
            config=config("ForSequenceClassification", (text, "b")),
        )


@pytest.mark.parametrize("facts", with_markup())
def test_markup_in_a_record_is_escaped(facts: ModelFacts) -> None:
    card, usual = model_card(facts), model_card(classifier())
    page, expected = Page(rendered(card)), Page(rendered(usual))
    assert page.tags <= expected.tags
    assert page.addresses <= expected.addresses
    for kind in ("<h1>", "<h2>", "<table>", "<details>"):
        assert rendered(card).count(kind) == rendered(usual).count(kind)
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    assert not any(re.search(r"https?:|www\.", stretch) for stretch in page.prose)


def test_bars_in_names_are_shown_as_written() -> None:
    names = ("良い|普通", "悪い")
    finetuned = {"labels": [label(name, 90) for name in names], "columns": {"text": "a|b", "label": "label"}}
    page = rendered(model_card(classifier(config=config("ForSequenceClassification", names), record=finetuned)))
    for place in ("<code>良い|普通</code> and", "<td><code>良い|普通</code></td>", "text from <code>a|b</code>"):
        assert place in page


@pytest.mark.parametrize("kind", KINDS)
def test_names_with_markup_cannot_leave_the_usage_code(kind: str) -> None:
    facts = ModelFacts(**{"name": f'"); import os\n```\n{MARKUP}', **KINDS[kind][0]})
    blocks = [
        token.content for token in MarkdownIt("commonmark").parse(model_card(facts).text) if token.type == "fence"
    ]
    for block in blocks[: len(blocks) - 2]:
        compile(block, kind, "exec")
        assert "\nimport os" not in block
    plain = replace(facts, name="org/model")
    assert rendered(model_card(facts)).count("<h2>") == rendered(model_card(plain)).count("<h2>")


def test_label_weights_and_layer_decay_are_named_only_if_used() -> None:
    plain = str(model_card(classifier()))
    assert "Weights of labels" not in plain
    assert "Learning rate of a layer" not in plain
    labels = [{**label("良い", 3000), "weight": 0.5}, {**label("悪い", 10), "weight": 9.0}]
    used = str(model_card(classifier(record={"labels": labels}, recipe={"layer_decay": 0.9})))
    assert "| Weights of labels in the loss | higher for rare labels |" in used
    assert "| Learning rate of a layer relative to the next one | 0.9 |" in used

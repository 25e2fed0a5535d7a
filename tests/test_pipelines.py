"""transformers' pipelines give right results with saved models, for Japanese text without spaces between words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoTokenizer,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    ModernBertForSequenceClassification,
    ModernBertForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TokenClassificationPipeline,
    pipeline,
)

from llm_jp_modernbert import (
    LlmJpModernBertForQuestionAnswering,
    LlmJpModernBertForSequenceClassification,
    LlmJpModernBertForTokenClassification,
)
from llm_jp_modernbert.core.text_files import read_text
from llm_jp_modernbert.inference.question_answering import answer
from llm_jp_modernbert.model_cards.facts import ModelFacts
from llm_jp_modernbert.model_cards.usage import snippets
from llm_jp_modernbert.tokenization import build_tokenizer
from llm_jp_modernbert.training.finetuning.data.squad import squad
from llm_jp_modernbert.training.finetuning.head_task import HeadTask, ModelInput
from llm_jp_modernbert.training.finetuning.ner import Ner, Sentence, tags_of
from llm_jp_modernbert.training.finetuning.qa import Question, QuestionAnswering
from llm_jp_modernbert.training.finetuning.text import Classification, MultiLabelClassification, Regression, Texts

from tiny_models import tiny_config  # isort: skip

# Entities are in brackets: at the beginning, next to each other, of bytes, with blanks inside and around, repeated.
MARKED = [
    "[山田花子:人名]さんは[京都市役所:組織名]で働く。",
    "[東京:地名][大阪:地名][山田:人名][株式会社:組織名]を結ぶ。",
    "[𠮷野:人名][𩸽:地名]と[🍚亭:組織名]、😀。",
    "[㍿猫:組織名]は有名である。",
    "[山田　太郎:人名]　と　[田中　花子:人名]　は友人だ。",
    "　　[大阪:地名]へ\n[東京:地名]から。\r\n[京都:地名]にも。",
    "[ＡＢＣ:組織名]の[John Smith:人名]が[Tokyo:地名]に着いた。",
    "これには何もない。",
    "犬\n\n[花子:人名]",
    "駅は [大阪:地名] と [京都:地名] 。",
]
MARKED.append("".join(MARKED[:3]))


def sentence(marked: str) -> Sentence:
    """A text whose entities are written as `[text:type]`."""
    text, entities = "", []
    for number, part in enumerate(marked.replace("]", "[").split("[")):
        piece, _, kind = part.partition(":") if number % 2 else (part, "", "")
        if kind:
            entities.append((len(text), len(text) + len(piece), kind))
        text += piece
    return Sentence(text, tuple(entities))


SENTENCES = [sentence(marked) for marked in MARKED]


@pytest.fixture(scope="module", params=["stand-in", "ver3.0b1", "ver3.1"])
def tokenizer(request: pytest.FixtureRequest, modernbert: Path) -> PreTrainedTokenizerBase:
    if request.param == "stand-in":
        loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(modernbert)
        return loaded
    folder: Path = request.getfixturevalue("data_dir")
    return build_tokenizer(str(folder / f"tokenizer/llm-jp-tokenizer-100k.{request.param}.model"))


def collated(rows: Sequence[ModelInput], tokenizer: PreTrainedTokenizerBase, collator: Any) -> Any:
    return collator(tokenizer)([dict(row.inputs) for row in rows])


def trained(
    model: PreTrainedModel, rows: Sequence[ModelInput], tokenizer: PreTrainedTokenizerBase, collator: Any, steps: int
) -> PreTrainedModel:
    """Trains a model on some rows until its loss is small."""
    batch = collated(rows, tokenizer, collator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(steps):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss < 0.005:
            break
    return model.eval()


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> str:
    """Saves a model as a plain `modernbert` one, with the tokenizer that transformers itself loads."""
    model.save_pretrained(folder, format="plain")
    tokenizer.save_pretrained(folder)
    return str(folder)


def head_of(task: HeadTask[Any], model_class: Any, tokenizer: PreTrainedTokenizerBase, **changes: Any) -> Any:
    torch.manual_seed(0)
    settings = {"vocab_size": len(tokenizer), "max_position_embeddings": 512, **changes}
    return model_class(tiny_config(**settings, **task.head_settings()))


def spans(entities: list[dict[str, Any]], text: str) -> list[list[Any]]:
    """Entities of a pipeline without the blanks around them, by the line that a card shows."""
    found = []
    for entity in entities:
        piece = text[entity["start"] : entity["end"]]
        begin = entity["start"] + len(piece) - len(piece.lstrip())
        found.append([begin, begin + len(piece.strip()), entity["entity_group"]])
    return found


@pytest.fixture(scope="module")
def tagger(tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that marks the entities of `SENTENCES`."""
    task = Ner(tags_of(["人名", "地名", "組織名"]))
    model = head_of(task, LlmJpModernBertForTokenClassification, tokenizer)
    rows = task.encode(tokenizer, SENTENCES, 512)
    trained(model, rows, tokenizer, DataCollatorForTokenClassification, 500)
    return save(model, tokenizer, tmp_path_factory.mktemp("tagger"))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_entities_are_substrings_of_the_text(tagger: str, batch_size: int) -> None:
    tag = pipeline("token-classification", model=tagger, aggregation_strategy="simple", device="cpu")
    assert isinstance(tag, TokenClassificationPipeline)
    assert type(tag.model) is ModernBertForTokenClassification
    results: Any = tag([example.text for example in SENTENCES], batch_size=batch_size)
    for example, found in zip(SENTENCES, results, strict=True):
        assert spans(found, example.text) == [list(entity) for entity in example.entities]
        for entity, (begin, _, _) in zip(found, example.entities, strict=True):
            # Only a half-width space before an entity is part of its first token.
            assert example.text[entity["start"] : begin] in ("", " ")


def test_no_token_of_whitespace_begins_an_entity(tokenizer: PreTrainedTokenizerBase) -> None:
    task = Ner(tags_of(["人名", "地名", "組織名"]))
    for row in task.encode(tokenizer, SENTENCES, 512):
        labels = row.inputs["labels"]
        assert labels[0] == labels[-1] == -100
        for label, span in zip(labels[1:-1], row.offsets[1:-1], strict=True):
            assert label >= 0
            assert span or not task.labels[label].startswith("B")


def test_pipeline_finds_the_predicted_entities_of_wikipedia(data_dir: Path, tmp_path: Path) -> None:
    rows = json.loads(read_text(data_dir / "ner/ner-wikipedia.json.gz"))
    examples = [
        Sentence(row["text"], tuple(sorted((*entity["span"], entity["type"]) for entity in row["entities"])))
        for row in rows[:200]
    ]
    tokenizer = build_tokenizer(str(data_dir / "tokenizer/llm-jp-tokenizer-100k.ver3.0b1.model"))
    task = Ner(tags_of(sorted({kind for example in examples for *_, kind in example.entities})))
    model = head_of(task, LlmJpModernBertForTokenClassification, tokenizer)
    inputs = task.encode(tokenizer, examples, 512)
    # Few steps, so that many predictions are wrong: torn entities, and I- tags without B- tags.
    trained(model, inputs[:50], tokenizer, DataCollatorForTokenClassification, 40)
    with torch.no_grad():
        output = model(**collated(inputs, tokenizer, DataCollatorForTokenClassification)).logits.numpy()
    logits = [values[: len(row.offsets)] for values, row in zip(output, inputs, strict=True)]
    predicted = [prediction.value for prediction in task.predict(inputs, logits, examples)]
    assert sum(map(len, predicted)) > 200
    tag = pipeline(
        "token-classification",
        model=save(model, tokenizer, tmp_path / "tagger"),
        aggregation_strategy="simple",
        device="cpu",
    )
    found: Any = tag([example.text for example in examples], batch_size=50)
    for example, entities, prediction in zip(examples, found, predicted, strict=True):
        assert spans(entities, example.text) == prediction


SINGLES = [
    Texts((text,), label) for text, label in [("今日は良い天気。", "良"), ("𠮷🍚　\nが冷めた", "悪"), ("猫", "良")]
]
PAIRS = [
    Texts((example.texts[0], text), example.label)
    for example, text in zip(SINGLES, ("晴れだ。", "　熱い", "犬だ。"), strict=True)
]


def logits_of(model: PreTrainedModel, rows: Sequence[ModelInput], tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    with torch.no_grad():
        return list(model(**collated(rows, tokenizer, DataCollatorWithPadding)).logits.numpy())


def classifier(
    task: HeadTask[Any], tokenizer: PreTrainedTokenizerBase, folder: Path, **options: Any
) -> tuple[Any, PreTrainedModel]:
    """A pipeline with random weights, and its model."""
    model = head_of(task, LlmJpModernBertForSequenceClassification, tokenizer, initializer_range=0.3).eval()
    classify = pipeline("text-classification", model=save(model, tokenizer, folder), device="cpu", **options)
    assert type(classify.model) is ModernBertForSequenceClassification
    return classify, model


@pytest.mark.parametrize("examples", [SINGLES, PAIRS])
@pytest.mark.parametrize("is_multi_label", [False, True])
def test_text_classification_gives_the_probabilities_of_training(
    is_multi_label: bool, examples: list[Texts], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    task = (MultiLabelClassification if is_multi_label else Classification)(("良", "悪", "普通"))
    if is_multi_label:
        examples = [Texts(example.texts, (str(example.label),)) for example in examples]
    classify, model = classifier(task, tokenizer, tmp_path, top_k=None)
    inputs: Any = [dict(zip(("text", "text_pair"), example.texts, strict=False)) for example in examples]
    if examples is SINGLES:
        inputs = [example.texts[0] for example in examples]
    rows = task.encode(tokenizer, examples, 512)
    logits = torch.tensor(np.stack(logits_of(model, rows, tokenizer)))
    expected = logits.sigmoid() if is_multi_label else logits.softmax(-1)
    for batch_size in (1, 3):
        for scores, wanted in zip(classify(inputs, batch_size=batch_size), expected.tolist(), strict=True):
            found = {score["label"]: score["score"] for score in scores}
            assert found == pytest.approx(dict(zip(task.labels, wanted, strict=True)), abs=1e-5)
    predictions = task.predict(rows, list(logits.numpy()), examples)
    for scores, prediction in zip(classify(inputs), predictions, strict=True):
        if not is_multi_label:
            assert (scores[0]["label"], pytest.approx(scores[0]["score"])) == (prediction.value, prediction.confidence)


def test_regression_gives_the_predicted_scores(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    task = Regression()
    classify, model = classifier(task, tokenizer, tmp_path, function_to_apply="none")
    examples = [Texts(example.texts, 1.0) for example in PAIRS]
    rows = task.encode(tokenizer, examples, 512)
    predictions = task.predict(rows, logits_of(model, rows, tokenizer), examples)
    found = classify([{"text": first, "text_pair": second} for first, second in (one.texts for one in examples)])
    assert [one["score"] for one in found] == pytest.approx([one.value for one in predictions], abs=1e-5)


@pytest.mark.parametrize("multi_label", [False, True])
def test_zero_shot_classification_uses_the_label_of_entailment(
    multi_label: bool, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    task = Classification(("contradiction", "entailment", "neutral"))
    model = head_of(task, LlmJpModernBertForSequenceClassification, tokenizer, initializer_range=0.3).eval()
    classify = pipeline("zero-shot-classification", model=save(model, tokenizer, tmp_path), device="cpu")
    topics, text = ["料理", "天気", "𠮷🍚"], SINGLES[0].texts[0]
    result: Any = classify(text, topics, hypothesis_template="話題は{}である。", multi_label=multi_label)
    rows = task.encode(tokenizer, [Texts((text, f"話題は{topic}である。"), "neutral") for topic in topics], 512)
    logits = torch.tensor(np.stack(logits_of(model, rows, tokenizer)))
    # Entailment against contradiction for each topic, or the topics against each other.
    expected = logits[:, [0, 1]].softmax(-1)[:, 1] if multi_label else logits[:, 1].softmax(0)
    wanted = dict(zip(topics, expected.tolist(), strict=True))
    assert dict(zip(result["labels"], result["scores"], strict=True)) == pytest.approx(wanted, abs=1e-5)


def test_function_of_the_card_equals_the_command_on_jaquad(data_dir: Path, tmp_path: Path) -> None:
    """transformers 5 has no pipeline for question answering."""
    articles = squad(data_dir / "jaquad/jaquad_train_0000.json.gz")
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    paragraphs.sort(key=lambda paragraph: len(paragraph["context"]))
    asked = [
        Question(one["question"], paragraph["context"], (first["text"],), first["answer_start"])
        for paragraph in paragraphs
        for one in paragraph["qas"][:2]
        for first in one.get("answers", [])[:1]
    ][:50]
    # Every fifth passage does not answer its question.
    asked = [
        Question(one.question, asked[place - 7].context, (), 0) if place % 5 == 0 else one
        for place, one in enumerate(asked)
    ]
    tokenizer = build_tokenizer(str(data_dir / "tokenizer/llm-jp-tokenizer-100k.ver3.0b1.model"))
    task = QuestionAnswering(longest_answer=20, no_answer_threshold=0.5)
    model = head_of(task, LlmJpModernBertForQuestionAnswering, tokenizer)
    # Few questions are learned, so that some answers are right and others are not.
    trained(model, task.encode(tokenizer, asked[:10], 512), tokenizer, DataCollatorWithPadding, 30)
    for key, value in task.decision_settings().items():
        setattr(model.config, key, value)
    folder = save(model, tokenizer, tmp_path)
    (snippet,) = snippets(ModelFacts(folder, json.loads((tmp_path / "config.json").read_text())))
    variables: dict[str, Any] = {}
    exec(snippet.code, variables)
    answers = [variables["answer"](one.question, one.context) for one in asked]
    assert answers == [answer(model, tokenizer, one.question, one.context)[0].text for one in asked]
    assert sum(text in (one.answers or ("",)) for one, text in zip(asked, answers, strict=True)) > 5
    assert "" in answers

"""Usage code of model cards runs as it is and prints what the model says."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import TEXTS
from tiny_models import tiny_config
from transformers import AutoTokenizer, PreTrainedTokenizerBase

import llm_jp_modernbert
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.heads import HEADS
from llm_jp_modernbert.inference.question_answering import answer
from llm_jp_modernbert.model_cards.facts import Exports, ModelFacts
from llm_jp_modernbert.model_cards.usage import snippets
from llm_jp_modernbert.tokenization import build_tokenizer, train_stand_in
from llm_jp_modernbert.training.finetuning.record import Record


def record(**changes: Any) -> Record:
    """Record of a fine-tuned classifier."""
    defaults: dict[str, Any] = {
        "schema": 1,
        "kind": "classification",
        "multi_label": False,
        "base": "org/base",
        "base_revision": "sha256:0011",
        "columns": {"text": "sentence", "label": "label"},
        "labels": [],
        "metric": "macro_f1",
        "parts": {},
        "best_seed": 0,
        "seeds": [],
        "confusion": None,
        "unanswerable": False,
        "max_length": 48,
        "lora": False,
        "seconds": 1.0,
        "device": "CPU",
        "versions": {},
    }
    return Record(**{**defaults, **changes})


SENTENCE_TRANSFORMERS = {"exports": Exports(sentence_transformers=True)}
PAIRS = record(columns={"text": "a", "text_pair": "b", "label": "label"})


def save(folder: Path, head: str, tokenizer: PreTrainedTokenizerBase | None = None, **settings: Any) -> Any:
    """Saves a small model with a head and random weights; returns it."""
    tokenizer = tokenizer or train_stand_in(TEXTS * 20, vocab_size=305)
    torch.manual_seed(0)
    labels = settings.pop("labels", ())
    if labels:
        settings |= {"id2label": dict(enumerate(labels)), "label2id": {label: n for n, label in enumerate(labels)}}
    config = tiny_config(vocab_size=len(tokenizer), initializer_range=0.3, **settings)
    model = getattr(llm_jp_modernbert, f"LlmJpModernBert{head}")(config).eval()
    model.save_pretrained(folder, format="plain")
    tokenizer.save_pretrained(folder)
    return model


def run(folder: Path, capsys: pytest.CaptureFixture[str], **facts: Any) -> dict[str, str]:
    """Output of each snippet for a saved model, by title."""
    config = json.loads((folder / "config.json").read_text())
    outputs = {}
    for snippet in snippets(ModelFacts(str(folder), config, **facts)):
        exec(snippet.code, {})
        outputs[snippet.title] = capsys.readouterr().out
    return outputs


@pytest.mark.parametrize(
    ("head", "settings", "facts", "titles"),
    [
        ("ForMaskedLM", {}, {"tokenizer": {"mask_token": "<MASK|LLM-jp>"}}, ["Fill-mask"]),
        ("ForSequenceClassification", {"labels": ("良い", "悪い")}, {}, ["Classification"]),
        ("ForSequenceClassification", {"labels": [*"abcdefgh"]}, {"record": PAIRS}, ["Classification of pairs"]),
        (
            "ForSequenceClassification",
            {"labels": ("entailment", "neutral", "contradiction")},
            {},
            ["Classification of pairs", "Zero-shot classification"],
        ),
        (
            "ForSequenceClassification",
            {"labels": ("a", "b"), "problem_type": "multi_label_classification"},
            {},
            ["Classification with several labels"],
        ),
        ("ForSequenceClassification", {"labels": ("score",), "problem_type": "regression"}, {}, ["Scores"]),
        (
            "ForSequenceClassification",
            {"labels": ("score",), "problem_type": "regression"},
            {"record": PAIRS},
            ["Scores of pairs"],
        ),
        ("ForSequenceClassification", {"labels": ("score",)}, SENTENCE_TRANSFORMERS, ["Reranking"]),
        ("ForTokenClassification", {"labels": ("O", "B-人名", "I-人名")}, {}, ["Named entities"]),
        ("ForQuestionAnswering", {}, {}, ["Question answering"]),
        ("ForMultipleChoice", {}, {}, ["Multiple choice"]),
        ("Model", {}, {}, ["Hidden states"]),
        ("Model", {}, SENTENCE_TRANSFORMERS, ["Sentence embeddings"]),
    ],
)
def test_snippets_of_every_head_run(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    head: str,
    settings: dict[str, Any],
    facts: dict[str, Any],
    titles: list[str],
) -> None:
    if "exports" in facts:
        pytest.importorskip("sentence_transformers")
    save(tmp_path, head, **settings)
    outputs = run(tmp_path, capsys, **facts)
    assert list(outputs) == titles
    assert outputs == run(tmp_path, capsys, **facts)
    assert all(output.strip() for output in outputs.values()) or head in ("ForTokenClassification",)


def test_every_head_has_snippets() -> None:
    for head in HEADS:
        config = {"architectures": [f"ModernBert{head.suffix}"], "max_position_embeddings": 128}
        assert snippets(ModelFacts("org/model", config))
    with pytest.raises(UsageError, match="no known head"):
        snippets(ModelFacts("org/model", {"architectures": ["ModernBertForNextSentencePrediction"]}))


@pytest.mark.parametrize("key", ["longest_answer", "no_answer_threshold", "max_position_embeddings"])
@pytest.mark.parametrize("value", ["0):\n    import os  #", float("nan"), [1]])
def test_settings_that_are_no_numbers_do_not_become_code(key: str, value: Any) -> None:
    config = {"architectures": ["ModernBertForQuestionAnswering"], "max_position_embeddings": 128, key: value}
    with pytest.raises(UsageError, match=f"config.json: {key}"):
        snippets(ModelFacts("org/model", config))


def test_classification_prints_the_probabilities_of_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save(tmp_path, "ForSequenceClassification", labels=("良い", "悪い"))
    (output,) = run(tmp_path, capsys).values()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for line, text in zip(output.splitlines(), texts_of(tmp_path), strict=True):
        expected = model(**tokenizer(text, return_tensors="pt")).logits[0].softmax(-1)
        printed = ast.literal_eval(line)
        assert [printed[label] for label in ("良い", "悪い")] == pytest.approx(expected.tolist(), abs=0.006)


def texts_of(folder: Path) -> list[str]:
    """The texts that the usage code classifies."""
    (snippet,) = snippets(ModelFacts(str(folder), json.loads((folder / "config.json").read_text())))
    tree = ast.parse(snippet.code)
    assigned = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}  # type: ignore[attr-defined]
    texts: list[str] = ast.literal_eval(assigned["inputs"])
    return texts


def test_thresholds_of_the_record_decide_which_labels_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"label {number}" for number in range(8)]
    save(tmp_path, "ForSequenceClassification", labels=names, problem_type="multi_label_classification")
    labels = [{"name": name, "counts": {}, "threshold": float(n >= 5)} for n, name in enumerate(names)]
    (output,) = run(tmp_path, capsys, record=record(labels=labels)).values()
    assert [sorted(ast.literal_eval(line)) for line in output.splitlines()] == [names[:5]] * 2


def answer_function(folder: Path) -> Any:
    (snippet,) = snippets(ModelFacts(str(folder), json.loads((folder / "config.json").read_text())))
    variables: dict[str, Any] = {}
    exec(snippet.code, variables)
    return variables["answer"]


@pytest.mark.parametrize(("threshold", "longest"), [(None, 64), (-4.0, 64), (0.0, 3)])
def test_answer_function_agrees_with_the_command(tmp_path: Path, threshold: float | None, longest: int) -> None:
    model = save(tmp_path, "ForQuestionAnswering", no_answer_threshold=threshold, longest_answer=longest)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    shown = answer_function(tmp_path)
    answers = []
    for number in range(12):
        question, passage = TEXTS[number % 3], f"{'早く' * number}、{TEXTS[(number + 1) % 3]}"
        answers.append(shown(question, passage))
        assert answers[-1] == answer(model, tokenizer, question, passage)[0].text
    assert len(set(answers)) > 3
    assert ("" in answers) == (threshold == -4.0)


def head_features(model: Any, encoded: Any) -> torch.Tensor:
    """Inputs of the last layer, `(tokens, hidden)`."""
    kept: list[torch.Tensor] = []
    handle = model.classifier.register_forward_hook(lambda _, inputs, __: kept.append(inputs[0]))
    with torch.inference_mode():
        model(**encoded)
    handle.remove()
    return kept[0].reshape(-1, kept[0].shape[-1]).clone()


def interpolate(model: Any, features: torch.Tensor, targets: torch.Tensor) -> None:
    """Sets the last layer so that it gives the targets."""
    with torch.no_grad():
        model.classifier.weight.copy_(torch.linalg.lstsq(features, targets).solution.T)
        model.classifier.bias.zero_()


SENTENCES = [
    ("山田花子さんは四月から京都市役所で働き、休日は嵐山の美術館に通っている。", ["山田花子", "京都市役所", "嵐山"]),
    ("NHK の 山田さんと、ｱﾅｳﾝｻｰの佐藤さん。", ["NHK", "山田", "佐藤"]),
    ("𩸽を食べる𠮷田さんは、大阪に住む。", ["𠮷田", "大阪"]),
    ("㈱山本は\n東京都港区にある。", ["㈱山本", "東京都港区"]),
]


@pytest.mark.parametrize(("text", "names"), SENTENCES)
def test_entities_are_substrings_of_japanese_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data_dir: Path, text: str, names: Sequence[str]
) -> None:
    """With the real vocabulary; the last layer is solved so that the model tags this text correctly."""
    tokenizer = build_tokenizer(data_dir / "tokenizer" / "llm-jp-tokenizer-100k.ver3.0b1.model")
    model = save(tmp_path, "ForTokenClassification", tokenizer, hidden_size=64, labels=("O", "B-名", "I-名"))
    encoded = tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
    spans = encoded.pop("offset_mapping")[0].tolist()
    tags = np.zeros(len(spans), dtype=int)
    for name in names:
        begin = text.index(name)
        inside = [n for n, (first, last) in enumerate(spans) if last > begin and first < begin + len(name)]
        tags[inside] = 2
        tags[inside[0]] = 1
    interpolate(model, head_features(model, encoded), 20 * torch.eye(3)[tags])
    model.save_pretrained(tmp_path, format="plain")
    config = json.loads((tmp_path / "config.json").read_text())
    (snippet,) = snippets(ModelFacts(str(tmp_path), config))
    exec(snippet.code.replace(snippet.code.split("text = ")[1].split("\n")[0], repr(text)), {})
    printed = [line.split(" ")[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == list(names)

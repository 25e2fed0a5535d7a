"""The quickstart from end to end with a few training steps, and its parts."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from rich.console import Console
from transformers import AutoModelForMaskedLM, AutoTokenizer, ModernBertForMaskedLM

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.quickstart import screen
from llm_jp_modernbert.quickstart.data import (
    answerable,
    embedded_questions,
    embedded_texts,
    held_out_questions,
    hold_out,
    own_texts,
)
from llm_jp_modernbert.quickstart.quickstart import QuickstartOptions, run_quickstart
from llm_jp_modernbert.tokenization import LlmJpTokenizer, train_stand_in
from llm_jp_modernbert.training.data.validation import MaskedAccuracy

SENTENCES = [
    f"{who}は{place}へ{how}行きました。"
    for who in ("父", "母", "兄", "弟", "姉", "妹", "先生", "友だち")
    for place in ("学校", "図書館", "東京", "公園", "病院", "海岸")
    for how in ("急いで", "歩いて", "自転車で")
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "texts.jsonl"
    documents = ["".join(SENTENCES[i : i + 4]) for i in range(0, len(SENTENCES), 4)]
    path.write_text("".join(json.dumps({"body": text}) + "\n" for text in documents), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer() -> LlmJpTokenizer:
    return train_stand_in(SENTENCES, vocab_size=370)


def test_quickstart_writes_a_model_that_transformers_loads(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "model"
    options = QuickstartOptions(data=[str(data)], text_column="body", out=out, steps=2)
    console = Console(record=True, width=120, force_terminal=False, quiet=False)
    run_quickstart(options, console)
    shown = console.export_text()

    model = AutoModelForMaskedLM.from_pretrained(out)
    assert type(model) is ModernBertForMaskedLM
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert model.num_parameters() == report["parameters"]
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert len(tokenizer) == report["vocabulary"]
    assert tokenizer.model_max_length == model.config.max_position_embeddings == 1024
    assert [stage["steps"] for stage in report["stages"]] == [2, 1]
    assert set(report["masked_accuracy"]) == {"untrained", "after short context", "after long context"}
    assert len(report["questions"]) == 5
    assert [path.name for path in out.parent.iterdir()] == ["model"]

    assert f"{report['unigram_baseline']['accuracy']:.1%}" in shown
    assert "transformers.ModernBertForMaskedLM" in shown
    assert re.search(r"llm-jp-modernbert fill-mask \S*model '.*\[MASK\].*'", shown)

    with pytest.raises(UsageError, match="add --force"):
        run_quickstart(options, console)


@pytest.mark.parametrize(
    ("accuracy", "progress", "message"),
    [(0.07, 1.0, "Hardly better"), (0.2, 0.13, "after 13% of its steps"), (0.2, 1.0, None)],
)
def test_short_training_is_reported(accuracy: float, progress: float, message: str | None) -> None:
    console = Console(record=True, width=120, force_terminal=False)
    measured = {"after long context": {128: MaskedAccuracy(accuracy, 4.0, 100)}}
    screen.accuracy(console, measured, 0.05, "、", progress)
    shown = console.export_text()
    assert ("--force --minutes 20" in shown) == (message is not None)
    assert message is None or message in shown


def test_force_replaces_only_models_of_the_quickstart(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(UsageError, match="is not empty"):
        run_quickstart(QuickstartOptions(out=tmp_path, force=True), Console(quiet=True))
    with pytest.raises(UsageError, match="is a file"):
        run_quickstart(QuickstartOptions(out=tmp_path / "precious.txt", force=True), Console(quiet=True))
    assert (tmp_path / "precious.txt").read_text() == "x"


def test_embedded_held_out_text_is_not_in_the_training_text() -> None:
    texts = embedded_texts()
    training = "\n".join(texts.train)
    sentences = {s for text in texts.held_out for s in re.findall(r"[^。\n]{10,}。", text)}
    assert len(sentences) > 50
    assert not [sentence for sentence in sentences if sentence in training]
    for question in embedded_questions():
        assert question.text.count("[MASK]") == 1
        assert not any(question.text.replace("[MASK]", answer) in training for answer in question.answers)


def test_embedded_questions_have_single_token_answers() -> None:
    tokenizer = train_stand_in(embedded_texts().train, 2000)
    assert len(answerable(embedded_questions(), tokenizer)) == 5


def test_hold_out_depends_on_the_text_alone() -> None:
    texts = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(4000)]
    train, held_out = hold_out([*texts, *texts[:100]])
    assert not set(train) & set(held_out)
    assert len(train) + len(held_out) == 4100
    # One in twenty, within five standard deviations.
    assert abs(len(set(held_out)) - 200) < 5 * (4000 * 0.05 * 0.95) ** 0.5
    some_train, some_held_out = hold_out(texts[:1000])
    assert set(some_train) <= set(train)
    assert set(some_held_out) <= set(held_out)


@pytest.mark.parametrize("count", [2, 3])
def test_few_documents_are_divided(count: int) -> None:
    train, held_out = hold_out([str(i) for i in range(count)])
    assert train
    assert held_out


def test_single_document_raises(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("一つだけ\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"a\.txt: only one document.*blank lines separate documents"):
        own_texts([str(tmp_path / "a.txt")], "text", 1000)


def test_reading_stops_at_the_character_limit(data: Path) -> None:
    texts = own_texts([str(data)], "body", 200)
    assert not texts.complete
    assert texts.characters + sum(map(len, texts.held_out)) == 200
    assert own_texts([str(data)], "body", 10**6).complete


def test_held_out_questions_mask_one_token(tokenizer: LlmJpTokenizer) -> None:
    questions = held_out_questions(SENTENCES, tokenizer)
    assert len(questions) == 5
    for question in questions:
        (answer,) = question.answers
        assert question.text.replace("[MASK]", answer) in SENTENCES
        ids = tokenizer(question.text.replace("[MASK]", str(tokenizer.mask_token))).input_ids
        whole = tokenizer(question.text.replace("[MASK]", answer)).input_ids
        # Only the masked token differs.
        assert [i for i, (a, b) in enumerate(zip(ids, whole, strict=True)) if a != b] == [ids.index(3)]
    assert answerable(questions, tokenizer) == questions
    assert held_out_questions(reversed(SENTENCES), tokenizer) == questions

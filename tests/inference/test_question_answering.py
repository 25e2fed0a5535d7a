"""Answers equal an exhaustive search with transformers' own model, and their places are right for Japanese."""

from __future__ import annotations

import io
import json
import tracemalloc
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import AutoTokenizer, ModernBertForQuestionAnswering
from typer.testing import CliRunner, Result

from llm_jp_modernbert import LlmJpModernBertForQuestionAnswering
from llm_jp_modernbert.cli import app
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.heads import QUESTION_ANSWERING
from llm_jp_modernbert.inference.loading import load_model, load_tokenizer
from llm_jp_modernbert.inference.question_answering import Answer, answer, render, span_scores, windows
from llm_jp_modernbert.tokenization.spans import with_spans

QUESTION = "名前は何か。"
CONTEXTS = [
    "吾輩は猫である。名前はまだ無い。",
    "今日のご飯は𠮷野家の牛丼🍚👨‍👩‍👧である。😀",
    "　全角の　空白で始まり、 半角の 空白もある。　",
    "一行目は\n二行目は\r\n\r\n四行目は\r終わり。\n",
    "か\u3099行の濁点と㍿とﾊﾟｿｺﾝと①とＡＢＣ。",
    "猫",
]


@pytest.fixture(scope="module")
def reader(modernbert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A question answering model with random weights, of 64 tokens."""
    torch.manual_seed(1)
    model = LlmJpModernBertForQuestionAnswering.from_pretrained(modernbert)
    torch.nn.init.normal_(model.classifier.weight, std=0.3)
    folder = tmp_path_factory.mktemp("reader")
    model.save_pretrained(folder, format="plain")
    AutoTokenizer.from_pretrained(modernbert).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(reader: Path) -> tuple[Any, Any]:
    return load_model(str(reader), QUESTION_ANSWERING), load_tokenizer(str(reader))


def exhaustive(
    reader: Path, rows: list[tuple[list[int], Any]], longest: int
) -> tuple[dict[tuple[int, int], float], float]:
    """Best score of each span over some inputs and their offsets, and the lowest of no answer, by transformers."""
    model = ModernBertForQuestionAnswering.from_pretrained(reader)
    best: dict[tuple[int, int], float] = {}
    empty = []
    for ids, offsets in rows:
        with torch.no_grad():
            output = model(torch.tensor([ids]))
        start, end = output.start_logits[0].tolist(), output.end_logits[0].tolist()
        empty.append(start[0] + end[0])
        for first, last in product(range(len(ids)), range(len(ids))):
            if first <= last < first + longest and offsets[first] and offsets[last]:
                span = offsets[first][0], offsets[last][1]
                best[span] = max(best.get(span, -np.inf), start[first] + end[last])
    return best, min(empty)


def assert_equal_answers(
    answers: list[Answer], scores: dict[tuple[int, int], float], no_answer: float, context: str
) -> None:
    ranked = sorted([*scores.items(), ((0, 0), no_answer)], key=lambda pair: -pair[1])
    total = sum(np.exp(score) for _, score in ranked)
    for found, (span, score) in zip(answers, ranked, strict=False):
        assert (found.start, found.end) == span
        assert found.text == context[found.start : found.end]
        assert found.score == pytest.approx(np.exp(score) / total, rel=1e-3)


@pytest.mark.parametrize("context", CONTEXTS)
def test_answers_equal_exhaustive_search_with_transformers(
    context: str, reader: Path, loaded: tuple[Any, Any]
) -> None:
    model, tokenizer = loaded
    model.config.max_position_embeddings = 512
    ids = tokenizer(QUESTION, context)["input_ids"]
    # The passage is between its own tokens and the final special token.
    _, spans = with_spans(tokenizer, context)
    offsets = [*[None] * (len(ids) - 1 - len(spans)), *spans, None]
    # Tokens of one character, such as its bytes, are one place: spans of characters are compared.
    scores, no_answer = exhaustive(reader, [(ids, offsets)], longest=len(ids))
    answers = answer(model, tokenizer, QUESTION, context, top_k=30, longest_answer=len(ids))
    model.config.max_position_embeddings = 64
    assert len(answers) == min(30, len(scores) + 1)
    assert_equal_answers(answers, scores, no_answer, context)


def test_probabilities_of_all_answers_sum_to_one(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    answers = answer(model, tokenizer, QUESTION, CONTEXTS[0], top_k=10_000)
    assert sum(found.score for found in answers) == pytest.approx(1)
    assert [found.score for found in answers] == sorted((found.score for found in answers), reverse=True)
    assert len({(found.start, found.end) for found in answers}) == len(answers)


def test_long_passages_equal_exhaustive_search_over_windows(reader: Path, loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    context = "\n".join([*CONTEXTS[:2], *reversed(CONTEXTS)]) * 2
    inputs = list(windows(tokenizer, QUESTION, context, 64))
    assert len(inputs) > 3
    scores, no_answer = exhaustive(
        reader, [(row.inputs["input_ids"], row.offsets) for row in inputs], longest=len(tokenizer)
    )
    assert_equal_answers(answer(model, tokenizer, QUESTION, context, 50), scores, no_answer, context)


def test_longest_answer_limits_the_tokens(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    context = "今日のご飯はカレーである。"
    _, spans = with_spans(tokenizer, context)
    answers = answer(model, tokenizer, QUESTION, context, top_k=1000, longest_answer=2)
    # Byte tokens of one character share a span.
    covered = [{span for span in spans if span and one.start <= span[0] < span[1] <= one.end} for one in answers]
    assert {len(one) for one in covered} == {0, 1, 2}


class Marking(torch.nn.Module):
    """Gives `score` to the first token, and 1 to each token of some ids as the first and the last one."""

    def __init__(self, config: Any, ids: list[int], score: float) -> None:
        super().__init__()
        self.config, self.ids, self.score = config, ids, score
        self.device = torch.device("cpu")

    def forward(self, input_ids: torch.Tensor, **unused: Any) -> Any:
        logits = 10.0 * torch.isin(input_ids, torch.tensor(self.ids)) - 5
        logits[:, 0] = self.score
        return SimpleNamespace(start_logits=logits, end_logits=logits)


@pytest.mark.parametrize("threshold", ["missing", 0.0, 3.0, -3.0, None])
@pytest.mark.parametrize("score", [4.0, 5.0, 6.0, 8.0])
def test_passage_has_no_answer_above_the_threshold(score: float, threshold: Any, loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    config = SimpleNamespace(**{**model.config.to_dict(), "name_or_path": "marking"})
    if threshold != "missing":
        config.no_answer_threshold = threshold
    marking: Any = Marking(config, tokenizer.convert_tokens_to_ids(["猫"]), score)
    (found,) = answer(marking, tokenizer, QUESTION, CONTEXTS[0])
    # By hand: the span 猫 scores 5 + 5, and no answer twice the score.
    limit = 0.0 if threshold == "missing" else threshold
    expected = "" if limit is not None and 2 * score - 10 > limit else "猫"
    assert found.text == expected
    assert (found.start, found.end) == ((0, 0) if not expected else (3, 4))
    two = answer(marking, tokenizer, QUESTION, CONTEXTS[0], top_k=2)
    assert any(not one.text for one in two) == (limit is not None)


def test_spans_of_8192_tokens_need_little_memory() -> None:
    offsets = [(place, place + 1) for place in range(8192)]
    logits = np.random.default_rng(0).normal(size=(8192, 2)).astype(np.float32)
    tracemalloc.start()
    (_, probability), *_ = span_scores([(logits, offsets)], longest=64).ranked(3, 0.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0 < probability < 1
    # All pairs of tokens would need 512 MiB.
    assert peak < 32 << 20


@pytest.mark.parametrize(
    ("question", "context", "reason"),
    [
        ("", "猫", "question is empty"),
        (" \u3000\n", "猫", "question is empty"),
        (QUESTION, "", "passage is empty"),
        (QUESTION, " \r\n\u3000", "passage is empty"),
        ("\ud83d", "猫", "surrogate"),
        (QUESTION, "猫\udc00", "surrogate"),
        ("吾輩は猫である。" * 20, "吾輩は猫である。" * 20, "too long"),
    ],
)
def test_unusable_texts_are_errors(question: str, context: str, reason: str, loaded: tuple[Any, Any]) -> None:
    with pytest.raises(UsageError, match=reason):
        answer(*loaded, question, context)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"no_answer_threshold": "high"}, "no_answer_threshold in config.json is 'high'"),
        ({"longest_answer": 0}, "longest_answer is 0"),
        ({"longest_answer": [3]}, "longest_answer is"),
    ],
)
def test_invalid_settings_of_a_configuration_are_errors(
    settings: dict[str, Any], reason: str, reader: Path, loaded: tuple[Any, Any]
) -> None:
    model = ModernBertForQuestionAnswering.from_pretrained(reader)
    for key, value in settings.items():
        setattr(model.config, key, value)
    with pytest.raises(UsageError, match=reason):
        answer(model, loaded[1], QUESTION, CONTEXTS[0])


def test_broken_weights_are_an_error(reader: Path, loaded: tuple[Any, Any]) -> None:
    model = ModernBertForQuestionAnswering.from_pretrained(reader)
    torch.nn.init.constant_(model.classifier.bias, float("nan"))
    with pytest.raises(UsageError, match="not finite"):
        answer(model, loaded[1], QUESTION, CONTEXTS[0])


def call(*arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(app, ["answer", *arguments], **options)


def test_command_prints_the_answers(reader: Path, loaded: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = loaded
    model.config.no_answer_threshold = None
    (tmp_path / "passage.txt").write_bytes("\ufeff吾輩は猫である。\r\n名前はまだ無い。\r\n".encode())
    context = "吾輩は猫である。\n名前はまだ無い。"
    expected = answer(model, tokenizer, QUESTION, context, top_k=3)
    del model.config.no_answer_threshold
    config = json.loads((reader / "config.json").read_text())
    folder = tmp_path / "reader"
    folder.mkdir()
    for file in reader.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "config.json").write_text(json.dumps({**config, "no_answer_threshold": None}))
    options = ("--question", QUESTION, "--top-k", "3")
    result = call(str(folder), *options, "--context", str(tmp_path / "passage.txt"))
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.stdout
    *lines, excerpt = result.stdout.splitlines()
    for line, found in zip(lines, expected, strict=True):
        assert f"{found.score:.2%}" in line
        assert found.text.replace("\n", " ") in line
        assert f"{found.start}–{found.end}" in line
    assert excerpt == context.replace("\n", " ")
    for more in (["--text", context], ["--context", "-"]):
        result = call(str(folder), *options, "--question", "誰か。", *more, "--json", input=context)
        first, second = json.loads(result.stdout)
        assert (first["question"], second["question"]) == (QUESTION, "誰か。")
        assert [Answer(**one) for one in first["answers"]] == pytest.approx(expected)


def test_answer_is_highlighted_on_a_terminal_only() -> None:
    context = "前" * 100 + "\r\n答え\x1b[31m" + "後" * 100
    shown = render(context, [Answer("答え", 102, 104, 0.5), Answer("", 0, 0, 0.25)])
    output = {}
    for terminal in (True, False):
        file = io.StringIO()
        colors: Any = "standard" if terminal else None
        Console(file=file, width=400, color_system=colors).print(shown)
        output[terminal] = file.getvalue()
    assert "\x1b[1;7;32m答え\x1b[0m" in output[True]
    assert output[False].splitlines() == [
        " 50.00%  答え  (characters 102–104)",
        " 25.00%  The passage has no answer.",
        # Line breaks become one space; control sequences are dropped.
        f"…{'前' * 58} 答え{'後' * 55}…",
    ]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--text", "猫"], "--question"),
        (["--question", "何か。"], "--context FILE or --text TEXT"),
        (["--question", "何か。", "--text", "猫", "--context", "-"], "--context FILE or --text TEXT"),
        (["--question", "何か。", "--context", "missing.txt"], "missing.txt: no such file"),
        (["--question", "何か。", "--context", "sjis.txt"], "iconv -f CP932"),
        (["--question", "何か。", "--context", "empty.txt"], "passage is empty"),
        (["--question", " ", "--text", "猫"], "question is empty"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], reason: str, reader: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sjis.txt").write_bytes("吾輩は猫である。".encode("cp932"))
    Path("empty.txt").write_text("\n \n")
    result = call(str(reader), *arguments)
    message = str(result.exception) if isinstance(result.exception, UsageError) else result.output
    assert result.exit_code
    assert reason in message


def test_models_without_the_head_are_refused(modernbert: Path) -> None:
    result = call(str(modernbert), "--question", "何か。", "--text", "猫")
    assert isinstance(result.exception, UsageError)
    assert "of a question answering model" in str(result.exception)

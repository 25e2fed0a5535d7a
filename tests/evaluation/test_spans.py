"""Tokens, characters, answers and entities."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from seqeval.metrics import f1_score
from transformers import AutoTokenizer

from llm_jp_modernbert.evaluation.finetuning import Splits
from llm_jp_modernbert.evaluation.jsquad import Jsquad, Question, best_span, character_f1, normalized
from llm_jp_modernbert.evaluation.ner import Ner, Sentence, character_tags, entities, token_tags
from llm_jp_modernbert.evaluation.spans import find_pieces, with_spans
from llm_jp_modernbert.evaluation.task import Options


def test_spans_are_what_the_tokens_say(modernbert: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(modernbert)
    text = "  今日のご飯は カレーである。"
    ids, spans = with_spans(tokenizer, text)
    assert len(ids) == len(spans)
    covered = {place for span in spans if span for place in range(*span)}
    assert covered == {place for place, character in enumerate(text) if not character.isspace()}


def test_pieces_of_a_tokenizer_that_does_not_tell() -> None:
    text = "ＡＢＣ社は 東京に㍿を置く"
    found = find_pieces(text, ["abc", "社", "は", "", "に", "株式会社", "を", "置く"])
    assert [text[span[0] : span[1]].strip() if span else None for span in found] == [
        "ＡＢＣ",
        "社",
        "は",
        "東京",
        "に",
        "㍿",
        "を",
        "置く",
    ]


def test_best_span_is_the_best_of_all() -> None:
    drawn = np.random.default_rng(0)
    offsets = [None, None, (0, 2), (2, 3), (3, 3 + 4), None, (7, 9), (9, 12), None]
    for _ in range(50):
        start, end = drawn.normal(size=(2, 11))
        wanted = max(
            (start[a] + end[b], a, b)
            for a, b in product(range(9), range(9))
            if a <= b < a + 3 and offsets[a] and offsets[b]
        )
        score, span = best_span(start, end, offsets, longest=3)
        first, last = offsets[wanted[1]], offsets[wanted[2]]
        assert first
        assert last
        assert score == pytest.approx(wanted[0])
        assert span == (first[0], last[1])


def test_answers_are_compared_as_jglue_does() -> None:
    assert normalized(" Tokyo, 東京。") == "tokyo東京"
    assert character_f1("東京都", "東京") == pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1))
    assert character_f1("大阪", "東京") == 0
    assert character_f1("東京。", "東京") == 1


@pytest.mark.parametrize("length", [40, 64])
def test_windows_hold_the_whole_paragraph_and_the_answer(modernbert: Path, length: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(modernbert)
    context = "今日のご飯はカレーである。明日の朝は早く起きて、駅まで歩いて行きます。吾輩は猫である。" * 3
    question = Question("吾輩は何か。", context, ("猫",), context.index("猫"))
    task = Jsquad(Options(), stride=8)
    data = Splits("", "", "", [question])
    rows = task.rows(tokenizer, data, [question], length)
    assert len(rows) > 1
    seen = {span for row in rows for span in row.offsets if span}
    assert seen == {span for span in with_spans(tokenizer, context)[1] if span}
    for row in rows:
        assert len(row.inputs["input_ids"]) == len(row.offsets) <= length
        first, last = (row.offsets[row.inputs[key]] for key in ("start_positions", "end_positions"))
        if first and last:
            assert "猫" in context[first[0] : last[1]]
        else:
            assert row.inputs["start_positions"] == row.inputs["end_positions"] == 0
    assert any(row.inputs["start_positions"] for row in rows)


def test_a_paragraph_that_fits_is_read_whole(modernbert: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(modernbert)
    question = Question("誰か。", "吾輩は猫である。", ("猫",), 3)
    (row,) = Jsquad(Options()).rows(tokenizer, Splits("", "", "", []), [question], 64)
    assert row.inputs["input_ids"] == tokenizer(question.question, question.context)["input_ids"]


def test_entities_survive_tokens_that_fit() -> None:
    text = "田中一郎は東京都の田中商店へ行く"
    found = [(0, 4, "人名"), (5, 8, "地名"), (9, 13, "法人名")]
    offsets = [None, (0, 2), (2, 4), (4, 5), (5, 7), (7, 8), (8, 9), (9, 11), (11, 13), (13, 14), (14, 16), None]
    assert entities(offsets, token_tags(offsets, found)) == found
    # Two bytes of one character are two tokens of one span.
    twice = [(0, 2), (2, 3), (2, 3), (3, 4)]
    assert entities(twice, token_tags(twice, [(0, 3, "人名")])) == [(0, 3, "人名")]
    assert character_tags(text, found)[:6] == ["B-人名", "I-人名", "I-人名", "I-人名", "O", "B-地名"]


def test_ner_scores_are_of_whole_entities() -> None:
    examples = [Sentence("田中は東京へ", ((0, 2, "人名"), (3, 5, "地名"))), Sentence("猫", ())]
    predictions = [[[0, 2, "人名"], [3, 4, "地名"]], []]
    found = Ner(Options()).scores(examples, predictions)
    # One of two is right, and one of two that were found.
    assert found == {"f1": 0.5, "precision": 0.5, "recall": 0.5}
    assert f1_score([["B-x", "I-x"]], [["B-x", "O"]], zero_division=0) == 0

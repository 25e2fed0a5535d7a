"""Spans of tokens, answers and entities."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from seqeval.metrics import f1_score
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertTokenizerFast, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from llm_jp_modernbert.inference.question_answering import span_scores
from llm_jp_modernbert.tokenization import LlmJpTokenizer
from llm_jp_modernbert.tokenization.spans import find_pieces, with_characters, with_spans
from llm_jp_modernbert.training.finetuning.ner import Ner, Sentence, character_tags, entities, tags_of, token_tags
from llm_jp_modernbert.training.finetuning.qa import Question, QuestionAnswering, character_f1, normalized


def test_spans_cover_all_characters_but_whitespace(modernbert: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(modernbert)
    text = "  今日のご飯は カレーである。"
    ids, spans = with_spans(tokenizer, text)
    assert len(ids) == len(spans)
    covered = {place for span in spans if span for place in range(*span)}
    assert covered == {place for place, character in enumerate(text) if not character.isspace()}


@pytest.fixture(scope="module", params=["current", "earlier", "package"])
def tokenizer(request: pytest.FixtureRequest, modernbert: Path) -> PreTrainedTokenizerBase:
    """As `AutoTokenizer` loads it, as version 0.1 saved it, and as this package loads it."""
    loaded = AutoTokenizer.from_pretrained(modernbert)
    if request.param == "package":
        return LlmJpTokenizer.from_pretrained(modernbert)
    if request.param == "earlier":
        parts = [loaded.backend_tokenizer.pre_tokenizer[index] for index in range(2)]
        loaded.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    return loaded


def test_bytes_have_the_span_of_their_character(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "𠮷𩸽 é🦆\n\n今日"
    ids, spans = with_spans(tokenizer, text)
    # By hand: characters of 4, 4, (a space), 2, 4, 1 and 1 bytes; line breaks and the inserted ▁ cover nothing.
    tokens = tokenizer.convert_ids_to_tokens(ids)
    expected = [None, *[(0, 1)] * 4, *[(1, 2)] * 4, None, *[(3, 4)] * 2, *[(4, 5)] * 4, None, None]
    assert tokens[0] == tokens[9] == "▁"
    assert spans[: len(expected)] == expected
    _, shares = with_characters(tokenizer, text)
    assert shares[:10] == [0, *[1 / 4] * 8, 1]
    assert shares[10:16] == [*[1 / 2] * 2, *[1 / 4] * 4]


@pytest.mark.parametrize(
    ("context", "answer"),
    [("💩💩🦆", "🦆"), ("𠮷𩸽", "𩸽"), ("𠮷𩸽", "𠮷"), ("夏目漱石　が書いた。", "夏目漱石　"), ("は　𠮷 だ", "　𠮷 ")],
)
def test_answers_of_bytes_and_blanks_are_learned(
    context: str, answer: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    question = Question("何か。", context, (answer,), context.index(answer))
    (row,) = QuestionAnswering().encode(tokenizer, [question], 64)
    first, last = (row.offsets[row.inputs[key]] for key in ("start_positions", "end_positions"))
    assert first
    assert last
    assert context[first[0] : last[1]] == answer.strip()
    count = row.inputs["end_positions"] - row.inputs["start_positions"] + 1
    ids = row.inputs["input_ids"][row.inputs["start_positions"] :][:count]
    assert tokenizer.decode(ids).strip() == answer.strip()


def test_neighboring_entities_of_bytes_keep_their_labels(tokenizer: PreTrainedTokenizerBase) -> None:
    text, marked = "𠮷𩸽🦆だ", ((0, 1, "人名"), (1, 3, "地名"))
    task = Ner(tags_of(["人名", "地名"]))
    (row,) = task.encode(tokenizer, [Sentence(text, marked)], 64)
    tags = [None if label < 0 else task.labels[label] for label in row.inputs["labels"]]
    assert tags[:14] == [None, "O", "B-人名", *["I-人名"] * 3, "B-地名", *["I-地名"] * 7]
    assert set(tags[14:-1]) == {"O"}
    assert entities(row.offsets, tags) == list(marked)


def test_find_pieces_without_offsets() -> None:
    text = "ＡＢＣ社は 東京に㍿を置く"
    results = find_pieces(text, ["abc", "社", "は", "", "に", "株式会社", "を", "置く"])
    assert [text[span[0] : span[1]].strip() if span else None for span in results] == [
        "ＡＢＣ",
        "社",
        "は",
        "東京",
        "に",
        "㍿",
        "を",
        "置く",
    ]


def test_characters_of_tokens_sum_to_text_length(modernbert: Path) -> None:
    text = "今日の ご飯は。😀。\n 明日の朝"
    ids, shares = with_characters(tokenizer := AutoTokenizer.from_pretrained(modernbert), text)
    # The ▁ that the tokenizer adds before a text does not count; spaces inside the text do.
    assert sum(shares) == pytest.approx(len(text), abs=1e-6)
    by_piece = dict(zip(tokenizer.convert_ids_to_tokens(ids), shares, strict=True))
    # Four bytes share one character; the line break is one byte.
    assert (by_piece["<0xF0>"], by_piece["<0x0A>"], by_piece["。"]) == (1 / 4, 1, 1)


def test_characters_of_byte_level_tokens_sum_to_text_length() -> None:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.train_from_iterator(["今日は良い天気"] * 3, trainers.BpeTrainer(vocab_size=270, initial_alphabet=alphabet))
    ids, shares = with_characters(PreTrainedTokenizerFast(tokenizer_object=made), "今日は 猫")
    assert len(ids) > 5
    assert sum(shares) == pytest.approx(5, abs=1e-6)


def test_characters_of_unknown_and_continuation_tokens(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "東", "##京", "tokyo"]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"), tokenize_chinese_chars=False)
    ids, shares = with_characters(tokenizer, "東京  ＴＯＫＹＯ 大阪府 Tokyo")
    assert tokenizer.convert_ids_to_tokens(ids) == ["東", "##京", "[UNK]", "[UNK]", "tokyo"]
    # Dropped whitespace belongs to no token.
    assert shares == [1, 1, 5, 3, 5]


def test_best_span_equals_exhaustive_search() -> None:
    drawn = np.random.default_rng(0)
    offsets = [None, None, (0, 2), (2, 3), (3, 3 + 4), None, (7, 9), (9, 12), None]
    for _ in range(50):
        start, end = drawn.normal(size=(2, 11))
        wanted = max(
            (start[a] + end[b], a, b)
            for a, b in product(range(9), range(9))
            if a <= b < a + 3 and offsets[a] and offsets[b]
        )
        ((span, score),) = span_scores([(np.stack([start, end], -1), offsets)], longest=3).best(1)
        first, last = offsets[wanted[1]], offsets[wanted[2]]
        assert first
        assert last
        assert score == pytest.approx(wanted[0])
        assert span == (first[0], last[1])


@pytest.mark.parametrize(
    ("answer", "compared"),
    [
        # JGLUE's patch of squad_metrics.py: lower case, keep punctuation, strip final full stops, collapse whitespace.
        (" Tokyo,  東京。。", "tokyo, 東京"),
        ("「東京」。", "「東京」"),
        ("1,000円", "1,000円"),
        ("東京。 ", "東京。"),
        ("New\u3000York", "new york"),
    ],
)
def test_answers_are_normalized_like_jglue(answer: str, compared: str) -> None:
    assert normalized(answer) == compared


def test_answer_scores_equal_hand_computation() -> None:
    assert character_f1("東京都", "東京") == pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1))
    assert character_f1("大阪", "東京") == 0
    assert character_f1("東京。", "東京") == 1
    assert character_f1("。", "東京") == 0
    # With multiplicity: ああい and あいい share one あ and one い.
    assert character_f1("ああい", "あいい") == pytest.approx(2 / 3)
    asked = [Question("", "", ("東京", "東京都"), 0), Question("", "", ("猫",), 0), Question("", "", ("A B",), 0)]
    results = QuestionAnswering().scores(asked, ["東京都。", "犬", "a\nb"])
    assert results == pytest.approx({"exact_match": 2 / 3, "f1": 2 / 3}, abs=1e-9)
    results = QuestionAnswering().scores(asked[:1], ["京都"])
    # 京都 against 東京: 1 of 2 and 1 of 2; against 東京都: 2 of 2 and 2 of 3, the better one.
    assert results == pytest.approx({"exact_match": 0.0, "f1": 0.8}, abs=1e-9)


@pytest.mark.parametrize("length", [40, 64])
def test_windows_cover_the_paragraph_and_the_answer(modernbert: Path, length: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(modernbert)
    context = "今日のご飯はカレーである。明日の朝は早く起きて、駅まで歩いて行きます。吾輩は猫である。" * 3
    question = Question("吾輩は何か。", context, ("猫",), context.index("猫"))
    rows = QuestionAnswering(stride=8).encode(tokenizer, [question], length)
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


def test_short_paragraph_has_one_window(modernbert: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(modernbert)
    question = Question("誰か。", "吾輩は猫である。", ("猫",), 3)
    (row,) = QuestionAnswering().encode(tokenizer, [question], 64)
    assert row.inputs["input_ids"] == tokenizer(question.question, question.context)["input_ids"]


def test_aligned_entities_survive_token_tags() -> None:
    text = "田中一郎は東京都の田中商店へ行く"
    results = [(0, 4, "人名"), (5, 8, "地名"), (9, 13, "法人名")]
    offsets = [None, (0, 2), (2, 4), (4, 5), (5, 7), (7, 8), (8, 9), (9, 11), (11, 13), (13, 14), (14, 16), None]
    assert entities(offsets, token_tags(offsets, results)) == results
    # Two byte tokens share the span of one character.
    twice = [(0, 2), (2, 3), (2, 3), (3, 4)]
    assert entities(twice, token_tags(twice, [(0, 3, "人名")])) == [(0, 3, "人名")]
    assert character_tags(text, results)[:6] == ["B-人名", "I-人名", "I-人名", "I-人名", "O", "B-地名"]


def test_ner_scores_equal_share_of_equal_entities() -> None:
    drawn = np.random.default_rng(0)

    def some() -> list[tuple[int, int, str]]:
        bounds = sorted(drawn.choice(30, 8, replace=False).tolist())
        return [(*bounds[n : n + 2], str(drawn.choice(["人名", "地名"]))) for n in range(0, 8, 2)]

    gold = [some() for _ in range(40)]
    # Some predictions have a different type or end.
    results = [
        [(begin, end - int(draw == 1 and end - begin > 1), "人名" if draw == 2 else kind) for begin, end, kind in one]
        for one in gold
        for draw in [int(drawn.integers(3))]
    ]
    right = sum(len(set(one) & set(other)) for one, other in zip(gold, results, strict=True))
    total = sum(map(len, gold))
    assert 0 < right < total
    examples = [Sentence("あ" * 30, tuple(one)) for one in gold]
    scores = Ner().scores(examples, results)
    assert scores == pytest.approx(dict.fromkeys(("f1", "precision", "recall"), right / total), abs=1e-6)


def test_ner_scores_count_whole_entities() -> None:
    examples = [Sentence("田中は東京へ", ((0, 2, "人名"), (3, 5, "地名"))), Sentence("猫", ())]
    predictions = [[[0, 2, "人名"], [3, 4, "地名"]], []]
    results = Ner().scores(examples, predictions)
    # One of two entities is predicted correctly, and one of two predictions is correct.
    assert results == {"f1": 0.5, "precision": 0.5, "recall": 0.5}
    assert f1_score([["B-x", "I-x"]], [["B-x", "O"]], zero_division=0) == 0

"""Tokenizers with fewer or more tokens split texts as the original does, up to the change."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tokenizer_samples import ODD_TEXTS
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.quickstart.data import embedded_texts
from llm_jp_modernbert.tokenization import LlmJpTokenizer, train_stand_in
from llm_jp_modernbert.tokenization.vocabulary import Vocabulary
from llm_jp_modernbert.training.data.encoding import Encoder

TERMS = ["記譜法", "計量記譜法", "多拍子計量記譜法", "𩸽", "𩸽鍋", "LilyPond", "▁LilyPond", "ゑびす"]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return embedded_texts().train[:200]


@pytest.fixture(scope="module")
def original(texts: list[str]) -> LlmJpTokenizer:
    return train_stand_in(texts, 900)


@pytest.fixture(scope="module")
def vocabulary(original: LlmJpTokenizer) -> Vocabulary:
    return Vocabulary.of(original)


@pytest.fixture(scope="module")
def counts(original: LlmJpTokenizer, texts: list[str]) -> list[int]:
    used = Counter(token_id for text in texts[:100] for token_id in original(text, add_special_tokens=False).input_ids)
    return [used[token_id] for token_id in range(len(original))]


def wrapped(backend: Tokenizer, folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers loads it from a file."""
    PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def smallest(vocabulary: Vocabulary, counts: list[int]) -> int:
    """The number of tokens that must stay, as the error names it."""
    with pytest.raises(UsageError, match="must stay") as error:
        vocabulary.most_used(counts, 1)
    return int(str(error.value).split(": ")[1].split(" ")[0].replace(",", ""))


@pytest.mark.parametrize("room", [0, 60, 200])
def test_texts_of_tokens_that_stay_are_split_as_before(
    room: int, original: LlmJpTokenizer, vocabulary: Vocabulary, counts: list[int], texts: list[str], tmp_path: Path
) -> None:
    kept = vocabulary.most_used(counts, smallest(vocabulary, counts) + room)
    trimmed = wrapped(vocabulary.trimmed(kept), tmp_path)
    parts = [part for text in texts for part in text.replace("。", "。\n").splitlines() if part]
    same = 0
    for part in parts:
        ids = original(part).input_ids
        if set(ids) <= set(kept):
            same += 1
            assert trimmed(part).input_ids == [kept.index(token_id) for token_id in ids]
    assert same > (0 if room == 0 else 5)


def test_every_text_stays_encodable(vocabulary: Vocabulary, counts: list[int], tmp_path: Path) -> None:
    trimmed = wrapped(vocabulary.trimmed(vocabulary.most_used(counts, smallest(vocabulary, counts))), tmp_path)
    for text in (*ODD_TEXTS, *(term for term in TERMS if "▁" not in term)):
        assert trimmed.decode(trimmed(text, add_special_tokens=False).input_ids) == text


def test_special_tokens_and_bytes_keep_their_ids(
    original: LlmJpTokenizer, vocabulary: Vocabulary, counts: list[int]
) -> None:
    kept = vocabulary.most_used(counts, smallest(vocabulary, counts))
    assert kept[:264] == list(range(264))
    assert vocabulary.trimmed(kept).encode("一").ids[0] == original.cls_token_id


def test_tokens_in_use_and_their_characters_stay_by_default(vocabulary: Vocabulary, counts: list[int]) -> None:
    used = {vocabulary.pieces[token_id] for token_id in np.flatnonzero(counts)}
    characters = {character for piece in used for character in piece} & set(vocabulary.pieces)
    kept = [vocabulary.pieces[token_id] for token_id in vocabulary.most_used(counts, min_count=1)]
    assert set(kept) == used | characters | set(vocabulary.pieces[:264]) | {"▁"}


def unigram(scores: dict[str, float]) -> Vocabulary:
    """A plain Unigram tokenizer without bytes, whose mask follows the pieces."""
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("</s>", 0.0), *scores.items()], unk_id=0))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s> <mask>", special_tokens=[("</s>", 1), ("<mask>", len(scores) + 2)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<unk>", "</s>", "<mask>")])
    return Vocabulary(tokenizer)


def test_uses_of_a_removed_token_count_for_its_split() -> None:
    vocabulary = unigram({"▁": -3.0, "a": -3.0, "b": -3.0, "ab": -4.0, "ba": -4.0, "abab": -5.0, "baba": -5.0})
    counts = {"abab": 2, "ab": 2, "ba": 3}
    uses = [counts.get(piece, 0) for piece in vocabulary.pieces]
    # "baba" is unused; then "abab" leaves, which is "ab" twice: "ab" has 2 + 2 × 2 uses, more than "ba".
    kept = vocabulary.most_used(uses, size=len(vocabulary.pieces) - 3)
    assert [vocabulary.pieces[token_id] for token_id in kept] == ["<unk>", "</s>", "▁", "a", "b", "ab", "<mask>"]


def test_tokens_after_the_pieces_are_renumbered(tmp_path: Path) -> None:
    vocabulary = unigram({"▁": -3.0, "a": -3.0, "b": -3.0, "ab": -4.0})
    assert vocabulary.backend.encode("ab").ids[-1] == 6
    kept = vocabulary.most_used([0, 0, 4, 4, 4, 0, 0], min_count=1)
    trimmed = wrapped(vocabulary.trimmed(kept), tmp_path)
    assert trimmed("ab<mask>").tokens() == ["▁", "a", "b", "<mask>", "</s>", "<mask>"]
    assert trimmed.convert_tokens_to_ids("<mask>") == len(trimmed) - 1 == 5
    extended = wrapped(vocabulary.extended(vocabulary.new_pieces({"ba": 0}, 1)), tmp_path)
    assert extended("ba<mask>").tokens() == ["▁", "ba", "<mask>", "</s>", "<mask>"]
    assert extended.convert_tokens_to_ids(["<mask>", "ba"]) == [6, 7]


@pytest.mark.parametrize("uses", [0, 100])
def test_new_pieces_win_against_their_splits(
    uses: int, original: LlmJpTokenizer, vocabulary: Vocabulary, texts: list[str], tmp_path: Path
) -> None:
    new = vocabulary.new_pieces(dict.fromkeys(TERMS, uses), 10_000)
    extended = wrapped(vocabulary.extended(new), tmp_path)
    for term in TERMS:
        tokens = extended.tokenize(f"「{term.replace('▁', ' ')}」")
        assert tokens.count(term) == 1, tokens
    # Existing ids do not change, nor do texts without the new pieces.
    assert extended.convert_ids_to_tokens(range(len(original))) == original.convert_ids_to_tokens(range(len(original)))
    plain = [text for text in texts if not any(term in text for term in TERMS)]
    assert [extended(text).input_ids for text in plain] == [original(text).input_ids for text in plain]
    # SentencePiece, which counts tokens, splits alike.
    encoder = Encoder(extended)
    assert encoder.backend == "sentencepiece"
    sentence = "".join(f"{first}と{second}、" for first, second in pairwise(TERMS)).replace("▁", " ")
    assert encoder.encode([sentence])[0].tolist() == extended(sentence, add_special_tokens=False).input_ids
    assert extended.decode(extended(sentence, add_special_tokens=False).input_ids) == sentence


def test_parts_of_a_new_piece_are_its_present_tokens(original: LlmJpTokenizer, vocabulary: Vocabulary) -> None:
    (piece,) = vocabulary.new_pieces({"▁𩸽の駅": 0}, 1)
    assert list(piece.parts) == original(" 𩸽の駅", add_special_tokens=False).input_ids[-len(piece.parts) :]


def test_pieces_within_others_are_counted_once(vocabulary: Vocabulary) -> None:
    new = vocabulary.new_pieces({"記譜": 10, "計量記譜法": 10}, 10_000)
    counts = [0] * len(vocabulary.pieces) + [0, 10]
    assert vocabulary.most_saving(new, counts, 1, 1) == [1]
    assert vocabulary.most_saving(new, counts, 2, 1) == [1]


def test_other_models_are_refused(tmp_path: Path) -> None:
    bpe = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    with pytest.raises(UsageError, match="a BPE tokenizer"):
        Vocabulary.of(PreTrainedTokenizerFast(tokenizer_object=bpe))
    with pytest.raises(UsageError, match="no token for unknown characters"):
        Vocabulary.of(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.Unigram([("a", -1.0)]))))


def test_scores_of_tokens_that_stay_do_not_change(vocabulary: Vocabulary, counts: list[int]) -> None:
    def scores(backend: Tokenizer) -> dict[str, float]:
        return dict(json.loads(backend.to_str())["model"]["vocab"])

    before = scores(vocabulary.backend)
    kept = vocabulary.most_used(counts, min_count=1)
    assert scores(vocabulary.trimmed(kept)).items() <= before.items()
    new = vocabulary.new_pieces(dict.fromkeys(TERMS, 3), 10_000)
    after = scores(vocabulary.extended(new))
    assert before.items() <= after.items()
    assert min(after.values()) == min(before.values())

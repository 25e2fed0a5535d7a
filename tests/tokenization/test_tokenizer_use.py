"""Templates, truncation, padding, offsets, and use with transformers and datasets."""

from __future__ import annotations

import pickle
from pathlib import Path

from tokenizer_samples import MODELS, ODD_TEXTS, SENTENCES

from llm_jp_modernbert.tokenization import LlmJpTokenizer

CLS, SEP, PAD, MASK = 5, 6, 4, 3
FIRST, SECOND = SENTENCES[:2]


def body(tokenizer: LlmJpTokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


def test_templates_of_single_texts_and_pairs(tokenizer: LlmJpTokenizer) -> None:
    first, second = body(tokenizer, FIRST), body(tokenizer, SECOND)
    assert tokenizer(FIRST).input_ids == [CLS, *first, SEP]
    assert tokenizer(FIRST, SECOND).input_ids == [CLS, *first, SEP, *second, SEP]
    assert tokenizer("").input_ids == [CLS, SEP]
    assert tokenizer([FIRST], [SECOND]).input_ids == [[CLS, *first, SEP, *second, SEP]]


def test_default_output_names(tokenizer: LlmJpTokenizer) -> None:
    assert list(tokenizer(FIRST, SECOND)) == ["input_ids", "attention_mask"]


def test_token_type_ids_on_request(tokenizer: LlmJpTokenizer) -> None:
    first, second = body(tokenizer, FIRST), body(tokenizer, SECOND)
    encoded = tokenizer(FIRST, SECOND, return_token_type_ids=True)
    assert encoded.token_type_ids == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert set(tokenizer(FIRST, return_token_type_ids=True).token_type_ids) == {0}


def test_truncation_to_the_context_length(small: LlmJpTokenizer) -> None:
    long = "日本語の文章" * 5000
    encoded = small(long, truncation=True)
    assert len(encoded.input_ids) == small.model_max_length == 8192
    assert (encoded.input_ids[0], encoded.input_ids[-1]) == (CLS, SEP)


def test_truncation_of_pairs(tokenizer: LlmJpTokenizer) -> None:
    first, second = body(tokenizer, FIRST), body(tokenizer, SECOND)
    length = len(first) + 6
    ids = tokenizer(FIRST, SECOND, truncation="only_second", max_length=length).input_ids
    assert ids == [CLS, *first, SEP, *second[:3], SEP]


def test_overlapping_windows_cover_the_text(tokenizer: LlmJpTokenizer) -> None:
    text = "".join(SENTENCES)
    windows = tokenizer(
        FIRST, text, truncation="only_second", max_length=40, stride=4, return_overflowing_tokens=True
    ).input_ids
    head = [CLS, *body(tokenizer, FIRST), SEP]
    assert all(window[: len(head)] == head and len(window) <= 40 for window in windows)
    joined = windows[0][len(head) : -1]
    for window in windows[1:]:
        joined += window[len(head) + 4 : -1]
    assert joined == body(tokenizer, text)


def test_padding_uses_the_pad_token(tokenizer: LlmJpTokenizer) -> None:
    batch = tokenizer([FIRST, "a"], padding=True)
    short = len(tokenizer("a").input_ids)
    assert set(batch.input_ids[1][short:]) == {PAD}
    assert batch.attention_mask[1] == [1] * short + [0] * (len(batch.input_ids[0]) - short)


def test_pre_split_words_are_encoded_separately(tokenizer: LlmJpTokenizer) -> None:
    words = ["東京", "は", "coffee"]
    encoded = tokenizer(words, is_split_into_words=True)
    expected = [piece for word in words for piece in body(tokenizer, word)]
    assert encoded.input_ids == [CLS, *expected, SEP]
    counts = [len(body(tokenizer, word)) for word in words]
    assert encoded.word_ids() == [None, *(i for i, count in enumerate(counts) for _ in range(count)), None]


def test_special_tokens_mask_marks_cls_and_sep(tokenizer: LlmJpTokenizer) -> None:
    encoded = tokenizer(FIRST, SECOND, return_special_tokens_mask=True)
    expected = [int(i in (CLS, SEP)) for i in encoded.input_ids]
    assert encoded.special_tokens_mask == expected
    assert tokenizer.get_special_tokens_mask(encoded.input_ids, already_has_special_tokens=True) == expected
    assert tokenizer.num_special_tokens_to_add() == 2
    assert tokenizer.num_special_tokens_to_add(pair=True) == 3


def test_masking_collator_skips_special_tokens_and_padding(tokenizer: LlmJpTokenizer) -> None:
    from transformers import DataCollatorForLanguageModeling

    collator = DataCollatorForLanguageModeling(
        tokenizer, mlm_probability=1.0, mask_replace_prob=1.0, random_replace_prob=0
    )
    batch = collator([tokenizer(FIRST), tokenizer("a")])
    original = tokenizer([FIRST, "a"], padding=True, return_tensors="pt").input_ids
    special = (original == CLS) | (original == SEP) | (original == PAD)
    assert (batch["input_ids"][special] == original[special]).all()
    assert (batch["input_ids"][~special] == MASK).all()
    assert (batch["labels"][special] == -100).all()


def test_fill_mask_pipeline_inserts_one_piece(small: LlmJpTokenizer) -> None:
    """With random weights: each returned sequence is the prompt with one piece in place of the mask."""
    from transformers import FillMaskPipeline, ModernBertConfig, ModernBertForMaskedLM

    config = ModernBertConfig(
        vocab_size=len(small), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=4, bos_token_id=5, eos_token_id=6, cls_token_id=5, sep_token_id=6,
    )  # fmt: skip
    fill = FillMaskPipeline(model=ModernBertForMaskedLM(config), tokenizer=small)
    for answer in fill("今日のご飯は<MASK|LLM-jp>である。", targets=["猫", "本"]):
        assert answer["sequence"] == f"今日のご飯は{answer['token_str']}である。"


def test_pickled_tokenizer_gives_the_same_ids(tokenizer: LlmJpTokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert type(copy) is LlmJpTokenizer
    assert copy(SENTENCES, ODD_TEXTS[: len(SENTENCES)]).data == tokenizer(SENTENCES, ODD_TEXTS[: len(SENTENCES)]).data


def test_datasets_map_in_several_processes(small: LlmJpTokenizer) -> None:
    from datasets import Dataset

    rows = Dataset.from_dict({"text": SENTENCES}).map(lambda row: small(row["text"]), batched=True, num_proc=2)
    assert rows["input_ids"][:] == small(SENTENCES).input_ids


def test_added_tokens_do_not_insert_spaces(small_model: Path) -> None:
    tokenizer = LlmJpTokenizer.from_sentencepiece(small_model)
    size = len(tokenizer)
    assert tokenizer.add_tokens(["深層学習"]) == 1
    tokens = tokenizer.tokenize("これは深層学習です。")
    assert tokens[tokens.index("深層学習") + 1] != "▁"
    assert tokenizer.convert_tokens_to_ids("深層学習") == size
    assert (
        tokenizer.decode(tokenizer("これは深層学習です。").input_ids, skip_special_tokens=True)
        == "これは深層学習です。"
    )


def test_special_token_strings_can_be_encoded_as_text(data_dir: Path) -> None:
    tokenizer = LlmJpTokenizer.from_sentencepiece(data_dir / "tokenizer" / MODELS["v3.0"])
    ids = tokenizer("<MASK|LLM-jp></s>", add_special_tokens=False, split_special_tokens=True).input_ids
    assert not set(ids) & set(range(8))
    assert tokenizer.decode(ids) == "<MASK|LLM-jp></s>"

"""The stand-in tokenizer has the layout of the published one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizer_samples import ODD_TEXTS, SENTENCES, texts_of

from llm_jp_modernbert.tokenization import LlmJpTokenizer, check_tokenizer, train_stand_in


@pytest.fixture(scope="module")
def stand_in() -> LlmJpTokenizer:
    with pytest.warns(UserWarning, match="The texts yield"):
        return train_stand_in([*SENTENCES, *ODD_TEXTS], vocab_size=2000)


def test_stand_in_passes_all_checks(stand_in: LlmJpTokenizer, tmp_path: Path) -> None:
    stand_in.save_pretrained(tmp_path)
    assert [check for check in check_tokenizer(stand_in, tmp_path) if not check.passed] == []
    assert stand_in.convert_ids_to_tokens([3, 7, 8, 263]) == ["<MASK|LLM-jp>", "<EOD|LLM-jp>", "<0x00>", "<0xFF>"]


@pytest.mark.parametrize("text", [*SENTENCES, *ODD_TEXTS])
def test_decoding_restores_the_text(text: str, stand_in: LlmJpTokenizer) -> None:
    assert stand_in.decode(stand_in(text).input_ids, skip_special_tokens=True) == text


def test_no_piece_crosses_a_newline(stand_in: LlmJpTokenizer) -> None:
    assert not any("\n" in piece for piece in stand_in.get_vocab())


def test_training_is_deterministic(stand_in: LlmJpTokenizer) -> None:
    with pytest.warns(UserWarning, match="The texts yield"):
        again = train_stand_in(iter([*SENTENCES, *ODD_TEXTS]), vocab_size=2000)
    assert again.backend_tokenizer.to_str() == stand_in.backend_tokenizer.to_str()


def test_vocabulary_size_is_reached_on_real_text(data_dir: Path) -> None:
    text = "".join(texts_of(data_dir / "corpus" / "aozora" / "validation.jsonl.gz", 20))[:200_000]
    sizes = {}
    for vocab_size in (1000, 4000):
        tokenizer = train_stand_in([text], vocab_size=vocab_size)
        assert len(tokenizer) == vocab_size
        ids = tokenizer(text, verbose=False).input_ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        sizes[vocab_size] = len(ids)
    assert sizes[4000] < sizes[1000] < len(text.encode())

"""Errors for files that are not llm-jp tokenizers name the file and the way out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizer_samples import train_sentencepiece
from tokenizers import Tokenizer
from tokenizers.models import BPE, Unigram

from llm_jp_modernbert.inference.loading import load_tokenizer
from llm_jp_modernbert.tokenization import LlmJpTokenizer, build_tokenizer, check_fits, train_stand_in


def test_error_for_invalid_sentencepiece_files(tmp_path: Path) -> None:
    (tmp_path / "empty.model").touch()
    (tmp_path / "text.model").write_text("version https://git-lfs.github.com/spec/v1\n")
    for name, message in {
        "missing.model": "does not exist.*github.com/llm-jp",
        "empty.model": "is empty.*Download it again",
        "text.model": "is not a SentencePiece model.*Download it again",
        "": "is a directory.*Name the SentencePiece file",
    }.items():
        with pytest.raises(ValueError, match=f"{tmp_path / name} {message}"):
            LlmJpTokenizer.from_sentencepiece(tmp_path / name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"control_symbols": []}, "id 3 is '<0x00>', but '<MASK|LLM-jp>' in an llm-jp tokenizer"),
        ({"byte_fallback": False}, "id 8 is '.*', but '<0x00>' in an llm-jp tokenizer"),
        ({"normalization_rule_name": "nmt_nfkc"}, "changes the text"),
        ({"remove_extra_whitespaces": True}, "changes the text"),
        ({"add_dummy_prefix": False}, "changes the text"),
        ({"model_type": "bpe"}, "is a BPE model.*Name the model of llm-jp-tokenizer v3"),
    ],
)
def test_error_for_other_sentencepiece_models(options: dict[str, object], message: str, tmp_path: Path) -> None:
    train_sentencepiece(tmp_path / "other", **options)
    with pytest.raises(ValueError, match=message.replace("|", r"\|")) as caught:
        LlmJpTokenizer.from_sentencepiece(tmp_path / "other.model")
    assert str(tmp_path / "other.model") in str(caught.value)


def test_error_for_other_tokenizers(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    Tokenizer(BPE()).save(str(file))
    with pytest.raises(ValueError, match=f"{file} is a BPE tokenizer.*Name an llm-jp-3 model"):
        LlmJpTokenizer.from_decoder(file)
    Tokenizer(Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0)).save(str(file))
    with pytest.raises(ValueError, match=f"{file}: id 1 is 'a', but '<s>' in an llm-jp tokenizer"):
        LlmJpTokenizer.from_decoder(tmp_path)
    with pytest.raises(ValueError, match="id 1 is 'a', but '<s>' in an llm-jp tokenizer"):
        LlmJpTokenizer.from_pretrained(tmp_path)
    file.write_text("{")
    with pytest.raises(ValueError, match=f"{file} is not a tokenizer.json"):
        LlmJpTokenizer.from_decoder(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "[]", "tokenizer.json: is not a JSON object"),
        ("tokenizer.json", "{}", "tokenizer.json is not a tokenizer.json"),
        ("tokenizer.json", '{"added_tokens": {}, "model": 5}', "tokenizer.json is not a tokenizer.json"),
        ("tokenizer_config.json", "", "tokenizer_config.json: cannot be read"),
        ("tokenizer_config.json", "null", "tokenizer_config.json: is not a JSON object"),
        ("tokenizer_config.json", "[" * 100_000, "tokenizer_config.json: cannot be read"),
        ("tokenizer_config.json", '{"pad_token": 3}', "the tokenizer cannot be loaded .*pad_token"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"3": "x"}}', "cannot be loaded .*added_tokens_decoder"),
        ("special_tokens_map.json", "[]", "special_tokens_map.json: is not a JSON object"),
        ("special_tokens_map.json", '{"pad_token": ["x"]}', "the tokenizer cannot be loaded .*pad_token"),
        ("added_tokens.json", "[]", "added_tokens.json: is not a JSON object"),
        ("added_tokens.json", '{"a": "x"}', "the tokenizer cannot be loaded"),
    ],
)
def test_damaged_files_of_a_saved_tokenizer_are_one_line(
    name: str, content: str, message: str, small: LlmJpTokenizer, tmp_path: Path
) -> None:
    small.save_pretrained(tmp_path)
    (tmp_path / name).write_text(content, encoding="utf-8")
    for load in (LlmJpTokenizer.from_pretrained, build_tokenizer, load_tokenizer):
        with pytest.raises(ValueError, match=message) as caught:
            load(str(tmp_path))
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_build_tokenizer_from_file_directory_and_repository(small_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"(?s)'nobody/nothing' is not a file.*from_sentencepiece"):
        build_tokenizer("nobody/nothing")
    with pytest.raises(ValueError, match=f"{tmp_path} holds neither"):
        build_tokenizer(str(tmp_path))
    for name in ("a.model", "b.model"):
        (tmp_path / name).write_bytes(small_model.read_bytes())
    with pytest.raises(ValueError, match=r"several SentencePiece models \(a.model, b.model\)"):
        build_tokenizer(str(tmp_path))
    (tmp_path / "b.model").unlink()
    expected = LlmJpTokenizer.from_sentencepiece(small_model).backend_tokenizer.to_str()
    for source in (small_model, tmp_path, tmp_path / "a.model"):
        assert build_tokenizer(str(source)).backend_tokenizer.to_str() == expected


def test_check_fits_compares_vocabulary_size_and_special_ids(small: LlmJpTokenizer) -> None:
    size = len(small)
    for fitting in (size, size + 127):
        check_fits(small, SimpleNamespace(vocab_size=fitting, pad_token_id=4, cls_token_id=5, mask_token_id=None))
    for other in (size - 1, size + 128, 99574):
        with pytest.raises(ValueError, match=f"has {size:,} tokens, but .* vocabulary of {other:,}.*resize_token_emb"):
            check_fits(small, SimpleNamespace(vocab_size=other))
    with pytest.raises(ValueError, match=r"has pad_token_id=4, but .* has 0"):
        check_fits(small, SimpleNamespace(vocab_size=size, pad_token_id=0))


def test_stand_in_needs_text_and_a_large_enough_vocabulary() -> None:
    with pytest.raises(ValueError, match="leaves no room for pieces"):
        train_stand_in(["あ"], vocab_size=264)
    with pytest.raises(ValueError, match="No text to train"):
        train_stand_in(["", " \n　"])


def test_import_does_not_load_torch_or_sentencepiece() -> None:
    """Apart from what transformers itself imports."""
    code = (
        "import sys; from transformers import PreTrainedTokenizerFast; before = set(sys.modules); "
        "import llm_jp_modernbert.tokenization; print({'torch', 'sentencepiece'} & (set(sys.modules) - before))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "set()"

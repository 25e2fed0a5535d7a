"""The saved form loads with and without this package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizer_samples import ODD_TEXTS, SENTENCES
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from llm_jp_modernbert.tokenization import LlmJpTokenizer, build_tokenizer, check_tokenizer, write_tokenizer
from llm_jp_modernbert.tokenization.conversion import read_sentencepiece
from llm_jp_modernbert.tokenization.layout import decoder_form

TEXTS = [*SENTENCES, *ODD_TEXTS, "今日のご飯は<MASK|LLM-jp>である。"]

PLAIN = """
import json, sys
from transformers import AutoTokenizer
texts = json.load(sys.stdin)
for folder in sys.argv[1:]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = dict(tokenizer(texts, texts[::-1]))
    print(json.dumps([type(tokenizer).__module__, tokenizer.model_max_length, tokenizer.mask_token_id, encoded]))
assert not any(name.startswith("llm_jp_modernbert") for name in sys.modules)
"""


def test_auto_tokenizer_loads_it_without_this_package(tokenizer: LlmJpTokenizer, tmp_path: Path) -> None:
    """In a new process; with and without the configuration of a model in the directory."""
    for model_type in ("none", "modernbert", "llm-jp-modernbert"):
        tokenizer.save_pretrained(tmp_path / model_type)
        if model_type != "none":
            config = {"model_type": model_type, "vocab_size": len(tokenizer)}
            (tmp_path / model_type / "config.json").write_text(json.dumps(config), encoding="utf-8")
    folders = sorted(str(folder) for folder in tmp_path.iterdir())
    run = subprocess.run(
        [sys.executable, "-c", PLAIN, *folders], input=json.dumps(TEXTS), capture_output=True, text=True, check=True
    )
    results = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(results) == 3
    for module, length, mask, encoded in results:
        assert module.startswith("transformers.")
        assert (length, mask) == (8192, 3)
        assert encoded == dict(tokenizer(TEXTS, TEXTS[::-1]))


def test_tokenizers_library_loads_it(tokenizer: LlmJpTokenizer, saved: Path) -> None:
    plain = Tokenizer.from_file(str(saved / "tokenizer.json"))
    for text in TEXTS:
        assert plain.encode(text).ids == tokenizer(text).input_ids
    for text in [*SENTENCES, *ODD_TEXTS]:
        assert plain.decode(plain.encode(text).ids) == text


def test_saving_again_writes_the_same_bytes(tokenizer: LlmJpTokenizer, saved: Path, tmp_path: Path) -> None:
    loaded = LlmJpTokenizer.from_pretrained(saved)
    assert type(loaded) is LlmJpTokenizer
    assert dict(loaded(TEXTS)) == dict(tokenizer(TEXTS))
    loaded.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (saved / name).read_bytes()


def test_truncation_and_padding_of_a_call_are_not_saved(small_model: Path, tmp_path: Path) -> None:
    tokenizer = LlmJpTokenizer.from_sentencepiece(small_model)
    tokenizer.save_pretrained(tmp_path / "before")
    tokenizer(SENTENCES, truncation=True, max_length=5, padding="max_length")
    tokenizer.save_pretrained(tmp_path / "after")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "after" / name).read_bytes() == (tmp_path / "before" / name).read_bytes()


@pytest.mark.parametrize("given", ["file", "directory"])
def test_from_decoder_gives_the_encoder_form(
    given: str, tokenizer: LlmJpTokenizer, decoder: Tokenizer, tmp_path: Path
) -> None:
    file = tmp_path / "tokenizer.json"
    decoder.save(str(file))
    adapted = LlmJpTokenizer.from_decoder(file if given == "file" else tmp_path)
    assert adapted.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_from_pretrained_converts_a_decoder(tokenizer: LlmJpTokenizer, decoder: Tokenizer, tmp_path: Path) -> None:
    decoder.save(str(tmp_path / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<PAD|LLM-jp>",
        "model_max_length": 1000000000000000019884624838656,
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    for adapted in (LlmJpTokenizer.from_pretrained(tmp_path), build_tokenizer(str(tmp_path))):
        assert adapted.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
        assert (adapted.bos_token_id, adapted.eos_token_id, adapted.model_max_length) == (5, 6, 8192)
    assert LlmJpTokenizer.from_pretrained(tmp_path, model_max_length=512).model_max_length == 512


def test_converting_keeps_extra_special_tokens(small_model: Path, tmp_path: Path) -> None:
    """Both the saved ones and those passed by the caller."""
    decoder_form(read_sentencepiece(small_model)).save(str(tmp_path / "tokenizer.json"))
    given = LlmJpTokenizer.from_pretrained(tmp_path, extra_special_tokens=["<X>"])
    plain = AutoTokenizer.from_pretrained(tmp_path)
    plain.add_special_tokens({"extra_special_tokens": ["<X>"]})
    plain.save_pretrained(tmp_path)
    for adapted in (given, LlmJpTokenizer.from_pretrained(tmp_path)):
        assert adapted.extra_special_tokens == ["<X>"]
        ids = adapted("a<X>b").input_ids
        assert adapted.convert_ids_to_tokens(ids)[2] == "<X>"
        assert adapted.get_special_tokens_mask(ids, already_has_special_tokens=True) == [1, 0, 1, 0, 1]


def test_added_tokens_are_saved_and_kept(small_model: Path, tmp_path: Path) -> None:
    tokenizer = LlmJpTokenizer.from_sentencepiece(small_model, model_max_length=1024)
    tokenizer.add_tokens(["深層学習"])
    tokenizer.save_pretrained(tmp_path)
    for loaded in (LlmJpTokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert loaded("深層学習だ").input_ids == tokenizer("深層学習だ").input_ids
        assert loaded.model_max_length == 1024
    assert LlmJpTokenizer.from_decoder(tmp_path).tokenize("深層学習だ") == tokenizer.tokenize("深層学習だ")


def test_check_of_a_written_tokenizer(tokenizer: LlmJpTokenizer, tmp_path: Path) -> None:
    folder = write_tokenizer(tokenizer, tmp_path / "new" / "tokenizer")
    checks = check_tokenizer(tokenizer, folder)
    assert [check for check in checks if not check.passed] == []
    assert len(checks) == (8 if len(tokenizer) < 90_000 else 9)


def test_check_finds_the_decoder_form(tokenizer: LlmJpTokenizer, decoder: Tokenizer, saved: Path) -> None:
    """With the settings of an encoder but the decoder's way from text to ids, as the released tokenizer had it."""
    wrong = LlmJpTokenizer.from_pretrained(saved)
    backend = wrong.backend_tokenizer
    backend.normalizer = decoder.normalizer
    backend.pre_tokenizer = None
    failed = {check.name for check in check_tokenizer(wrong, saved) if not check.passed}
    assert failed == {"text around a mask"}
    backend.post_processor = decoder.post_processor
    failed = {check.name for check in check_tokenizer(wrong, saved) if not check.passed}
    assert {"template", "pair", "reload, plain AutoTokenizer", "reload, tokenizers library"} <= failed


def test_checks_of_a_missing_directory_fail(small: LlmJpTokenizer, tmp_path: Path) -> None:
    failed = [check.name for check in check_tokenizer(small, tmp_path / "none") if not check.passed]
    assert failed == ["reload, plain AutoTokenizer", "reload, tokenizers library"]


def test_write_tokenizer_replaces_only_a_tokenizer(small: LlmJpTokenizer, tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    write_tokenizer(small, folder)
    files = {file.name for file in folder.iterdir()}
    assert files == {"tokenizer.json", "tokenizer_config.json"}
    write_tokenizer(small, folder)
    (folder / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(ValueError, match=r"model\.safetensors.*new or empty directory"):
        write_tokenizer(small, folder)
    assert {file.name for file in folder.iterdir()} == {*files, "model.safetensors"}
    with pytest.raises(ValueError, match="is a file"):
        write_tokenizer(small, folder / "model.safetensors")
    assert [entry.name for entry in tmp_path.iterdir()] == ["tokenizer"]


def test_failed_write_keeps_the_old_tokenizer(
    small: LlmJpTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tokenizer(small, tmp_path / "tokenizer")
    before = (folder / "tokenizer.json").read_bytes()

    def full_disk(self: LlmJpTokenizer, save_directory: Path, **kwargs: object) -> None:
        save_directory.mkdir(exist_ok=True)
        (save_directory / "tokenizer.json").write_text("half")
        raise OSError("No space left on device")

    monkeypatch.setattr(LlmJpTokenizer, "save_pretrained", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_tokenizer(small, folder)
    assert (folder / "tokenizer.json").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["tokenizer"]

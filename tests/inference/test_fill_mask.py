"""Fill-mask candidates equal those of transformers, for all spellings of the mask and all batches."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import write_checkpoint
from rich.console import Console
from transformers import (
    AutoTokenizer,
    ModernBertForMaskedLM,
    PreTrainedTokenizerBase,
    RobertaConfig,
    RobertaForMaskedLM,
    pipeline,
)
from typer.testing import CliRunner, Result

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.cli import app
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.fill_mask import MASK_ALIASES, Candidate, FilledText, fill_masks, render
from llm_jp_modernbert.inference.loading import load_masked_lm, load_tokenizer

SAMPLES = ["今日のご飯は[MASK]である。", "[MASK]の朝は早く[MASK]、駅まで行きます。", "名前はまだ[MASK]。"]


@pytest.fixture(scope="module", params=["plain", "native"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("plain"))


def assert_equal_candidates(result: FilledText, expected: FilledText) -> None:
    for candidates, theirs in zip(result.masks, expected.masks, strict=True):
        assert [candidate.token_id for candidate in candidates] == [candidate.token_id for candidate in theirs]
        probabilities = [candidate.probability for candidate in candidates]
        assert probabilities == pytest.approx([candidate.probability for candidate in theirs], rel=1e-4)


def transformers_candidates(path: Path, text: str, top_k: int) -> list[list[tuple[int, float]]]:
    """`(token id, probability)` of transformers' model with a full softmax."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = ModernBertForMaskedLM.from_pretrained(path)
    encoded = tokenizer(text.replace("[MASK]", tokenizer.mask_token), return_tensors="pt")
    with torch.no_grad():
        probabilities = model(**encoded).logits[encoded.input_ids == tokenizer.mask_token_id].softmax(-1)
    values, ids = probabilities.topk(top_k)
    return [list(zip(i, v, strict=True)) for i, v in zip(ids.tolist(), values.tolist(), strict=True)]


def test_candidates_equal_those_of_transformers(plain: Path) -> None:
    results = fill_masks(load_masked_lm(str(plain)), load_tokenizer(str(plain)), SAMPLES, top_k=7)
    for text, result in zip(SAMPLES, results, strict=True):
        expected = transformers_candidates(plain, text, 7)
        assert len(result.masks) == len(expected) == text.count("[MASK]")
        for candidates, theirs in zip(result.masks, expected, strict=True):
            assert [candidate.token_id for candidate in candidates] == [token_id for token_id, _ in theirs]
            probabilities = [candidate.probability for candidate in candidates]
            assert probabilities == pytest.approx([probability for _, probability in theirs], rel=1e-3)


def test_candidates_equal_those_of_the_pipeline(checkpoint: Path) -> None:
    model, tokenizer = load_masked_lm(str(checkpoint)), load_tokenizer(str(checkpoint))
    assert isinstance(model, LlmJpModernBertForMaskedLM)
    fill_mask = pipeline("fill-mask", model=model, tokenizer=tokenizer, device="cpu", top_k=5)
    for text in (SAMPLES[0], SAMPLES[2]):
        (result,) = fill_masks(model, tokenizer, [text])
        expected: Any = fill_mask(text.replace("[MASK]", str(tokenizer.mask_token)))
        assert [entry["token"] for entry in expected] == [candidate.token_id for candidate in result.masks[0]]
        probabilities = [candidate.probability for candidate in result.masks[0]]
        assert [entry["score"] for entry in expected] == pytest.approx(probabilities, rel=1e-4)


@pytest.fixture(scope="module")
def loaded(plain: Path) -> tuple[Any, PreTrainedTokenizerBase]:
    return load_masked_lm(str(plain)), load_tokenizer(str(plain))


def test_all_spellings_of_the_mask_are_equal(loaded: tuple[Any, PreTrainedTokenizerBase]) -> None:
    masks = [str(loaded[1].mask_token), *MASK_ALIASES]
    results = fill_masks(*loaded, [SAMPLES[0].replace("[MASK]", mask) for mask in masks])
    assert len(masks) == 4
    assert all(result == results[0] for result in results)


def test_result_does_not_depend_on_the_batch(loaded: tuple[Any, PreTrainedTokenizerBase]) -> None:
    batch = fill_masks(*loaded, SAMPLES)
    for text, expected in zip(SAMPLES, batch, strict=True):
        (single,) = fill_masks(*loaded, [text])
        assert_equal_candidates(single, expected)


@pytest.mark.parametrize(
    ("text", "top_k", "message"),
    [
        ("マスクのない文。", 5, r"text 1 \(マスクのない文。\) has no mask. Write \[MASK\]"),
        ("猫" * 300 + "[MASK]", 5, "tokens, but the context length is 64"),
        (SAMPLES[0], 100_000, "top-k is 100000"),
    ],
)
def test_invalid_input_is_reported(
    loaded: tuple[Any, PreTrainedTokenizerBase], text: str, top_k: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        fill_masks(*loaded, [text], top_k)


def test_missing_model_or_device_is_reported(tmp_path: Path, plain: Path) -> None:
    with pytest.raises(UsageError, match="no such directory"):
        load_masked_lm(str(tmp_path / "missing"))
    with pytest.raises(UsageError, match=r"holds no config\.json"):
        load_masked_lm(str(tmp_path))
    with pytest.raises(UsageError, match="is a file"):
        load_masked_lm(str(plain / "config.json"))
    with pytest.raises(UsageError, match="--device unknown"):
        load_masked_lm(str(plain), device="unknown")
    with pytest.raises(UsageError, match=r"no tokenizer found.*--tokenizer"):
        load_tokenizer(str(tmp_path))


def test_checkpoint_without_masked_lm_head_is_refused(tmp_path: Path, plain: Path) -> None:
    LlmJpModernBertForMaskedLM.from_pretrained(plain).model.save_pretrained(tmp_path, format="plain")
    with pytest.raises(UsageError, match=r"lacks .* weights of a masked language model"):
        load_masked_lm(str(tmp_path))


@pytest.mark.parametrize("padding", [1, 127, 128, 898, 5000])
def test_padding_rows_of_a_vocabulary_are_never_candidates(
    padding: int, plain: Path, loaded: tuple[Any, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    model, tokenizer = LlmJpModernBertForMaskedLM.from_pretrained(plain), loaded[1]
    size = len(tokenizer)
    model.resize_token_embeddings(size + padding)
    with torch.no_grad():
        model.decoder.bias[size:] = 100.0
    model.save_pretrained(tmp_path, format="plain")
    tokenizer.save_pretrained(tmp_path)
    (result,) = fill_masks(load_masked_lm(str(tmp_path)), load_tokenizer(str(tmp_path)), SAMPLES[:1])
    (expected,) = fill_masks(*loaded, SAMPLES[:1])
    assert [entry.token_id for entry in result.masks[0]] == [entry.token_id for entry in expected.masks[0]]


def test_tokenizer_with_more_tokens_than_the_model_is_refused(
    plain: Path, loaded: tuple[Any, PreTrainedTokenizerBase]
) -> None:
    tokenizer = load_tokenizer(str(plain))
    tokenizer.add_tokens(["深層学習"])
    with pytest.raises(UsageError, match=f"{plain}: its tokenizer has .* but the model a vocabulary of"):
        fill_masks(loaded[0], tokenizer, SAMPLES[:1])


def test_unusable_texts_are_reported_and_the_others_predicted(loaded: tuple[Any, PreTrainedTokenizerBase]) -> None:
    texts = [SAMPLES[0], "マスクなし", "猫" * 300 + "[MASK]", "半分\ud83d[MASK]", SAMPLES[1]]
    problems: dict[int, str] = {}
    results = fill_masks(*loaded, texts, problems=lambda index, error: problems.update({index: str(error)}))
    for result, expected in zip(results, fill_masks(*loaded, [SAMPLES[0], SAMPLES[1]]), strict=True):
        assert_equal_candidates(result, expected)
    assert list(problems) == [1, 2, 3]
    for message, reason in zip(problems.values(), ("no mask", "context length is 64", "surrogate"), strict=True):
        assert reason in message


def test_texts_up_to_the_context_length_of_roberta_are_read(plain: Path) -> None:
    tokenizer = load_tokenizer(str(plain))
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=25, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = RobertaForMaskedLM(config).eval()
    # Positions begin after the padding id, 4: 20 of 25 remain.
    fill_masks(model, tokenizer, ["[MASK]" * 18])
    with pytest.raises(UsageError, match="has 21 tokens, but the context length is 20"):
        fill_masks(model, tokenizer, ["[MASK]" * 19])


def run(arguments: list[str], stdin: bytes = b"") -> Result:
    return CliRunner().invoke(app, ["fill-mask", *arguments], input=stdin)


def test_command_reads_any_standard_input_row_by_row(plain: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A byte-order mark and CRLF do not change the answer; a row without a mask or in Shift_JIS loses only itself."""
    rows = [f"\ufeff{SAMPLES[0]}".encode(), b"", "なし".encode(), SAMPLES[2].encode("shift_jis"), SAMPLES[1].encode()]
    result = run([str(plain), "-", "--json"], b"\r\n".join(rows))
    assert [record.getMessage() for record in caplog.records] == [
        "standard input, row 4: not UTF-8 (invalid start byte at byte 0 of the row). "
        "Convert the file, for example with: iconv -f CP932 -t UTF-8",
        "standard input, row 3 has no mask. Write [MASK] or <mask> or {mask} for the missing token.",
    ]
    assert str(result.exception) == "2 of 4 texts cannot be used."
    expected = run([str(plain), SAMPLES[0], SAMPLES[1], "--json"])
    assert expected.exit_code == 0
    assert result.stdout == expected.stdout


def test_command_reports_arguments_that_are_not_utf8(plain: Path) -> None:
    result = run([str(plain), os.fsdecode(SAMPLES[2].encode("shift_jis"))])
    assert isinstance(result.exception, UsageError)
    assert "text 1" in str(result.exception)
    assert "surrogate" in str(result.exception)


def test_help_shows_all_spellings_of_the_mask() -> None:
    for width in (60, 80, 200):
        text = CliRunner().invoke(app, ["fill-mask", "--help"], env={"COLUMNS": str(width)}).stdout
        assert all(alias in text for alias in MASK_ALIASES)


def test_run_without_a_final_model_names_its_newest_checkpoint(plain: Path, tmp_path: Path) -> None:
    for step in (5, 20, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for step in (5, 20):
        (tmp_path / f"checkpoint-{step}" / "config.json").write_bytes((plain / "config.json").read_bytes())
    with pytest.raises(UsageError, match=f"newest checkpoint, {tmp_path}/checkpoint-20"):
        load_masked_lm(str(tmp_path))


def test_missing_files_of_a_local_folder_are_named(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((plain / "config.json").read_bytes())
    for load, name in ((load_masked_lm, r"model\.safetensors"), (load_tokenizer, r"tokenizer\.json")):
        with pytest.raises(UsageError, match=name) as caught:
            load(str(tmp_path))
        assert str(tmp_path) in str(caught.value)
        assert "huggingface.co" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_terminal_escapes_of_a_vocabulary_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    escape = "\x1b]0;title\x07\x1b[31m\x9b"
    Console().print(render(FilledText(f"a{escape}<mask>", ((Candidate(f"b{escape}", "b", 1, 0.5),),)), "<mask>"))
    assert not {"\x1b", "\x07", "\x9b"} & set(capsys.readouterr().out)

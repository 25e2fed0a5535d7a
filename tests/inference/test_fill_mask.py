"""Candidates equal those of plain transformers, however the mask is written and however texts are put together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import write_checkpoint
from transformers import AutoTokenizer, ModernBertForMaskedLM, PreTrainedTokenizerBase, pipeline

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.fill_mask import MASK_ALIASES, fill_masks
from llm_jp_modernbert.inference.loading import load_masked_lm, load_tokenizer, split_revision

SAMPLES = ["今日のご飯は[MASK]である。", "[MASK]の朝は早く[MASK]、駅まで行きます。", "名前はまだ[MASK]。"]


@pytest.fixture(scope="module", params=["plain", "native"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("plain"))


def of_transformers(path: Path, text: str, top_k: int) -> list[list[tuple[int, float]]]:
    """`(token id, probability)` by transformers' own model and softmax."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = ModernBertForMaskedLM.from_pretrained(path)
    encoded = tokenizer(text.replace("[MASK]", tokenizer.mask_token), return_tensors="pt")
    with torch.no_grad():
        probabilities = model(**encoded).logits[encoded.input_ids == tokenizer.mask_token_id].softmax(-1)
    values, ids = probabilities.topk(top_k)
    return [list(zip(i, v, strict=True)) for i, v in zip(ids.tolist(), values.tolist(), strict=True)]


def test_candidates_are_those_of_transformers(plain: Path) -> None:
    results = fill_masks(load_masked_lm(str(plain)), load_tokenizer(str(plain)), SAMPLES, top_k=7)
    for text, result in zip(SAMPLES, results, strict=True):
        expected = of_transformers(plain, text, 7)
        assert len(result.masks) == len(expected) == text.count("[MASK]")
        for candidates, theirs in zip(result.masks, expected, strict=True):
            assert [candidate.token_id for candidate in candidates] == [token_id for token_id, _ in theirs]
            assert [c.probability for c in candidates] == pytest.approx([share for _, share in theirs], rel=1e-3)


def test_pipeline_gives_the_same(checkpoint: Path) -> None:
    model, tokenizer = load_masked_lm(str(checkpoint)), load_tokenizer(str(checkpoint))
    assert isinstance(model, LlmJpModernBertForMaskedLM)
    by_pipeline = pipeline("fill-mask", model=model, tokenizer=tokenizer, device="cpu", top_k=5)
    for text in (SAMPLES[0], SAMPLES[2]):
        (result,) = fill_masks(model, tokenizer, [text])
        found: Any = by_pipeline(text.replace("[MASK]", str(tokenizer.mask_token)))
        assert [entry["token"] for entry in found] == [candidate.token_id for candidate in result.masks[0]]
        assert [entry["score"] for entry in found] == pytest.approx([c.probability for c in result.masks[0]], rel=1e-4)


@pytest.fixture(scope="module")
def loaded(plain: Path) -> tuple[Any, PreTrainedTokenizerBase]:
    return load_masked_lm(str(plain)), load_tokenizer(str(plain))


def test_every_way_to_write_a_mask(loaded: tuple[Any, PreTrainedTokenizerBase]) -> None:
    masks = [str(loaded[1].mask_token), *MASK_ALIASES]
    results = fill_masks(*loaded, [SAMPLES[0].replace("[MASK]", mask) for mask in masks])
    assert len(masks) == 4
    assert all(result == results[0] for result in results)


def test_a_text_does_not_depend_on_its_neighbours(loaded: tuple[Any, PreTrainedTokenizerBase]) -> None:
    together = fill_masks(*loaded, SAMPLES)
    for text, expected in zip(SAMPLES, together, strict=True):
        (alone,) = fill_masks(*loaded, [text])
        for mine, theirs in zip(alone.masks, expected.masks, strict=True):
            assert [c.token_id for c in mine] == [c.token_id for c in theirs]
            assert [c.probability for c in mine] == pytest.approx([c.probability for c in theirs], rel=1e-4)


def test_filled_text(loaded: tuple[Any, PreTrainedTokenizerBase]) -> None:
    (result,) = fill_masks(*loaded, [SAMPLES[1]])
    first, second = (candidates[0].text for candidates in result.masks)
    assert result.filled(str(loaded[1].mask_token)) == f"{first}の朝は早く{second}、駅まで行きます。"


@pytest.mark.parametrize(
    ("text", "top_k", "message"),
    [
        ("マスクのない文。", 5, r"text 1 \(マスクのない文。\) has no mask. Write \[MASK\]"),
        ("猫" * 300 + "[MASK]", 5, "tokens, but the model reads 64 at most"),
        (SAMPLES[0], 100_000, "top-k is 100000"),
    ],
)
def test_mistakes(loaded: tuple[Any, PreTrainedTokenizerBase], text: str, top_k: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fill_masks(*loaded, [text], top_k)


def test_revisions(tmp_path: Path) -> None:
    assert split_revision("org/name") == ("org/name", None)
    assert split_revision("org/name", "v1") == ("org/name", "v1")
    assert split_revision("org/name@stage1-4k") == ("org/name", "stage1-4k")
    (tmp_path / "a@b").mkdir()
    assert split_revision(str(tmp_path / "a@b")) == (str(tmp_path / "a@b"), None)
    with pytest.raises(UsageError, match="Give one of them"):
        split_revision("org/name@v1", "v2")


def test_what_is_no_model(tmp_path: Path, plain: Path) -> None:
    with pytest.raises(UsageError, match="no such directory"):
        load_masked_lm(str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match=r"holds no config\.json"):
        load_masked_lm(str(tmp_path))
    with pytest.raises(UsageError, match="is a file"):
        load_masked_lm(str(plain / "config.json"))
    with pytest.raises(UsageError, match="--device nowhere"):
        load_masked_lm(str(plain), device="nowhere")
    with pytest.raises(UsageError, match=r"no tokenizer found.*--tokenizer"):
        load_tokenizer(str(tmp_path))


def test_a_checkpoint_without_a_head_is_refused(tmp_path: Path, plain: Path) -> None:
    LlmJpModernBertForMaskedLM.from_pretrained(plain).model.save_pretrained(tmp_path, format="plain")
    with pytest.raises(UsageError, match=r"lacks .* weights of a masked language model"):
        load_masked_lm(str(tmp_path))

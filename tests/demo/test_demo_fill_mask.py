"""The tab that fills masks: candidates equal those of transformers, insertions, limits and escaping."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import pipeline

pytest.importorskip("gradio", reason="gradio is not installed")

from llm_jp_modernbert.demo.fill_mask import MAX_MASKS, predict, render
from llm_jp_modernbert.demo.inputs import InputError
from llm_jp_modernbert.demo.models import DemoModel, load_models
from llm_jp_modernbert.inference.fill_mask import Candidate, FilledText


@pytest.fixture(scope="module")
def models(modernbert: Path, bert: Path) -> list[DemoModel]:
    return load_models([str(modernbert), str(bert)])


def test_candidates_equal_those_of_the_pipeline(models: list[DemoModel], modernbert: Path) -> None:
    text = "今日のご飯は[MASK]である。"
    results = dict(predict(models, text).results)
    fill = pipeline("fill-mask", model=str(modernbert), top_k=8)
    expected = fill(text.replace("[MASK]", fill.tokenizer.mask_token))
    (candidates,) = results["modernbert"].masks
    assert [candidate.token_id for candidate in candidates] == [answer["token"] for answer in expected]
    assert [candidate.probability for candidate in candidates] == pytest.approx(
        [answer["score"] for answer in expected], rel=1e-4
    )


def test_chosen_candidates_fill_their_masks(models: list[DemoModel]) -> None:
    prediction = predict(models, " [MASK]は<mask>です。")
    assert prediction.insert(1, "山").text == "[MASK]は山です。"
    assert prediction.insert(1, "山").insert(0, "空").insert(1, "海").text == "空は海です。"


def test_text_above_the_context_length_is_reported_for_each_model(models: list[DemoModel]) -> None:
    prediction = predict(models, "[MASK]" + "今日" * 40)
    assert [error.key for _, error in prediction.results] == ["too_many_tokens"] * 2
    assert render(prediction, "ja").count("上限 64 トークン") == 2


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (" \n", "empty"),
        (None, "empty"),
        ("今日", "no_mask"),
        ("[MASK]" * (MAX_MASKS + 1), "too_many_masks"),
        ("[MASK]" * 20_000, "too_many_characters"),
        ("[MASK]\ud800", "surrogates"),
    ],
)
def test_unusable_text(models: list[DemoModel], text: str | None, key: str) -> None:
    with pytest.raises(InputError) as raised:
        predict(models, text)
    assert raised.value.key == key


def test_candidates_are_escaped(models: list[DemoModel]) -> None:
    prediction = predict(models, "[MASK]")
    hostile = FilledText("", ((Candidate('"><img src=x>', "", 0, 0.5),),))
    page = render(type(prediction)(("", ""), (("<b>", hostile),), (None,)), "ja")
    assert "<img" not in page
    assert "<b>" not in page
    assert "50.0%" in page

"""The tabs show the values of plain transformers, limit their inputs, and escape them."""

from __future__ import annotations

from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, ModernBertForMaskedLM, ModernBertModel

pytest.importorskip("gradio", reason="gradio is not installed")

from llm_jp_modernbert.demo import heat_map, search, similarity, tokens
from llm_jp_modernbert.demo.inputs import InputError, check_text, with_alerts
from llm_jp_modernbert.demo.models import DemoModel, load_models
from llm_jp_modernbert.demo.passages import sentences, similarities
from llm_jp_modernbert.demo.perplexity import Guess, guesses, passes_for
from llm_jp_modernbert.demo.wording import WORDING, language_of, phrase

TEXT = "今日の朝は早く、駅まで行きます。"
HOSTILE = '"><img src=x onerror=alert(1)>。${1}{{value}}'


@pytest.fixture(scope="module")
def model(modernbert: Path) -> DemoModel:
    return load_models([str(modernbert)])[0]


@pytest.fixture(scope="module")
def tokenizer(modernbert: Path) -> Any:
    return AutoTokenizer.from_pretrained(modernbert)


@pytest.mark.parametrize("passes", [None, 3])
def test_probability_of_each_token_equals_transformers(
    model: DemoModel, modernbert: Path, tokenizer: Any, passes: int | None
) -> None:
    ids = tokenizer(TEXT)["input_ids"]
    places = model.tokenize(TEXT).places
    assert list(places) == list(range(1, len(ids) - 1))
    plain = ModernBertForMaskedLM.from_pretrained(modernbert).eval()
    shares: list[float] = []
    guessed = guesses(model, ids, places, passes or len(places), shares.append)
    for place, guess in zip(places, guessed, strict=True):
        row = torch.tensor([ids])
        row[0, [other for other in places if passes is None and other == place]] = tokenizer.mask_token_id
        if passes is not None:
            row[0, [other for other in places if (other - place) % passes == 0]] = tokenizer.mask_token_id
        with torch.no_grad():
            probabilities = plain(row).logits[0, place].log_softmax(-1)
        assert guess.log_probability == pytest.approx(float(probabilities[ids[place]]), rel=1e-4)
        assert guess.best == int(probabilities.argmax())
    assert shares[-1] == 1


@pytest.mark.parametrize(("tokens", "budget", "passes"), [(10, 100, 10), (20, 200, 10), (8192, 16384, 8), (3, 1, 3)])
def test_passes_keep_to_the_budget(tokens: int, budget: int, passes: int) -> None:
    assert passes_for(tokens, budget) == passes


def test_pseudo_perplexity_is_the_exponential_of_the_mean_loss(model: DemoModel) -> None:
    tokenized = model.tokenize("今日")
    guessed = [Guess(float(np.log(probability)), 0) for probability in (0.5, 0.125)]
    guessed += [Guess(0.0, 0)] * (len(tokenized.places) - 2)
    page = heat_map.render("en", model, "今日", tokenized, guessed)
    assert f"Pseudo-perplexity {16 ** (1 / len(guessed)):.2f}" in page


def test_sentences_end_at_punctuation_and_line_breaks() -> None:
    text = "「はい。」と言った。\n \nv1.5 is out. Really?!終わり"
    found = [text[slice(*span)] for span in sentences(text)]
    assert found == ["「はい。」", "と言った。", "v1.5 is out.", " Really?!", "終わり"]


def test_similarities_are_those_of_mean_states_in_context(model: DemoModel, modernbert: Path, tokenizer: Any) -> None:
    document, question = "今日の朝は早い。猫は駅まで行きます。", "猫は？"
    encoder = ModernBertModel.from_pretrained(modernbert).eval()
    encoded = tokenizer(document, return_tensors="pt", return_offsets_mapping=True)
    offsets = encoded.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        states = encoder(**encoded).last_hidden_state[0]
        asked = encoder(**tokenizer(question, return_tensors="pt")).last_hidden_state[0].mean(0)
    for (begin, end), cosine in similarities(model, document, question):
        # The tokenizer puts a ▁ of no character before the text.
        inside = [place for place, (low, high) in enumerate(offsets) if place > 1 and begin <= low < high <= end]
        expected = torch.cosine_similarity(states[inside].mean(0), asked, dim=0)
        assert cosine == pytest.approx(float(expected), abs=1e-5)


def test_matrix_holds_cosines(model: DemoModel) -> None:
    cosines = similarity.matrix(model, [TEXT, TEXT, "猫は駅まで行きます。"])
    assert np.diag(cosines) == pytest.approx([1, 1, 1], abs=1e-5)
    assert cosines[0, 1] == pytest.approx(1, abs=1e-5)
    assert cosines[0, 2] < 0.999


def test_tokens_show_ids_and_offsets(model: DemoModel, tokenizer: Any) -> None:
    page = tokens.render("en", model, TEXT)
    encoded = tokenizer(TEXT, return_offsets_mapping=True)
    assert all(f"<i>{token_id}</i>" in page for token_id in encoded["input_ids"])
    begin, end = encoded["offset_mapping"][-2]
    assert f"<b>{TEXT[begin:end]}</b><i>{encoded['input_ids'][-2]}</i><i>{begin}–{end}</i>" in page


def test_pages_escape_what_visitors_write(model: DemoModel) -> None:
    text = HOSTILE[:24]
    tokenized = model.tokenize(text)
    guessed = [Guess(-1.0, 0)] * len(tokenized.places)
    for page in (
        tokens.render("en", model, text),
        search.render("en", HOSTILE, [(span, 0.5) for span in sentences(HOSTILE)]),
        heat_map.render("en", model, text, tokenized, guessed),
        similarity.render([HOSTILE, HOSTILE], np.eye(2)),
    ):
        assert "<img" not in page
        assert '""' not in page


def test_text_above_the_context_length(model: DemoModel) -> None:
    with pytest.raises(InputError, match="this model reads up to 64"):
        similarities(model, "今日" * 60, "今日")


def test_mistakes_are_shown_in_the_language_of_the_visitor() -> None:
    show = with_alerts(lambda language, text: check_text(text))
    assert "テキストを入力してください。" in show("ja", " ")
    assert "Enter a text first." in show("en", "")
    assert show("en", "a") == "a"


def test_both_languages_have_the_same_fields() -> None:
    for key, (english, japanese) in WORDING.items():
        fields = [{name for _, name, _, _ in Formatter().parse(text) if name} for text in (english, japanese)]
        assert fields[0] == fields[1], key
    assert phrase("ja", "tokens") != phrase("en", "tokens")


@pytest.mark.parametrize(
    ("header", "language"), [("ja", "ja"), ("ja-JP,ja;q=0.9,en;q=0.8", "ja"), ("en-US,ja;q=0.5", "en"), ("", "en")]
)
def test_language_is_that_the_browser_prefers(header: str, language: str) -> None:
    assert language_of(header) == language

"""`push_to_hub` uploads the files of a release."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError
from loopback_hub import LoopbackHub
from releases import NAME, QUICK, write_source
from transformers import AutoModelForMaskedLM

from llm_jp_modernbert import (
    LlmJpModernBertForMaskedLM,
    LlmJpModernBertForSequenceClassification,
    LlmJpTokenizer,
    register_for_modernbert,
    unregister_for_modernbert,
)
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.publishing import push
from llm_jp_modernbert.publishing import release as module
from llm_jp_modernbert.publishing.check import Checked
from llm_jp_modernbert.publishing.options import ReleaseOptions
from llm_jp_modernbert.publishing.release import release


@pytest.fixture(autouse=True)
def use_loopback_hub(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    # The check of a release in a separate process is slow.
    monkeypatch.setattr(module, "check", lambda *arguments: Checked())
    monkeypatch.setattr("huggingface_hub.HfApi", lambda token=None: HfApi(hub.url, token or hub.token))
    monkeypatch.setattr(push, "PATIENT", QUICK)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("models") / "nano")


def files(hub: LoopbackHub, name: str) -> dict[str, bytes]:
    return {path: hub.read(name, path) for path in hub.repositories["model", name].find("main").files}


def test_pushed_files_equal_those_of_a_release(hub: LoopbackHub, source: Path) -> None:
    model, tokenizer = (loader.from_pretrained(source) for loader in (LlmJpModernBertForMaskedLM, LlmJpTokenizer))
    model.config.checkpoint_format = "native"
    # A release saves the tokenizer with the model's maximum length.
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.push_to_hub(NAME, private=True)
    tokenizer.push_to_hub(NAME)
    assert hub.repositories["model", NAME].visibilities == ["private"]
    release(ReleaseOptions(source, "org/released"), QUICK, HfApi(hub.url, token=hub.token))
    pushed, released = files(hub, NAME), files(hub, "org/released")
    assert set(released) - set(pushed) == {"release.json"}
    assert set(pushed) <= set(released)
    for path in set(pushed) - {"README.md"}:
        assert pushed[path] == released[path], path
    card = ModelCard(pushed["README.md"].decode())
    # Neither a license nor a language is known.
    assert (card.data.license, card.data.language, card.data.pipeline_tag) == (None, None, "fill-mask")


def test_existing_card_is_kept(hub: LoopbackHub, source: Path) -> None:
    release(ReleaseOptions(source, NAME), QUICK, HfApi(hub.url, token=hub.token))
    before = files(hub, NAME)
    register_for_modernbert()
    try:
        model = AutoModelForMaskedLM.from_pretrained(source)
    finally:
        unregister_for_modernbert()
    model.push_to_hub(NAME, commit_message="Second", max_shard_size="30KB")
    after = files(hub, NAME)
    assert after["README.md"] == before["README.md"]
    # The manifest of the release is outdated, and its weights are replaced.
    assert "release.json" not in after
    assert "model.safetensors" not in after
    assert "model.safetensors.index.json" in after
    history = hub.repositories["model", NAME]
    assert history.history(history.find("main"))[0].title == "Second"


def test_classification_model_tags_and_permission(hub: LoopbackHub, source: Path) -> None:
    labels = {0: "悪い", 1: "普通", 2: "良い"}
    model = LlmJpModernBertForSequenceClassification.from_pretrained(
        source, id2label=labels, label2id={name: number for number, name in labels.items()}
    )
    model.config.name_or_path = "org/base"
    model.push_to_hub(NAME, tags=["reviews"], revision="v1")
    repository = hub.repositories["model", NAME]
    assert "model.safetensors" in repository.find("v1").files
    card = ModelCard(hub.read(NAME, "README.md", "v1").decode())
    assert "reviews" in card.data.tags
    assert (card.data.pipeline_tag, card.data.base_model) == ("text-classification", "org/base")
    assert all(name in card.text for name in labels.values())
    with pytest.raises(HfHubHTTPError):
        model.push_to_hub("org/other", token=hub.guest_token)
    assert ("model", "org/other") not in hub.repositories


def test_card_of_a_class_of_the_user_leaves_its_task_open(hub: LoopbackHub, source: Path) -> None:
    class Scorer(LlmJpModernBertForSequenceClassification):
        pass

    Scorer.from_pretrained(source).push_to_hub(NAME, tags=["scores"])
    card = ModelCard(hub.read(NAME, "README.md").decode())
    assert "scores" in card.data.tags
    assert card.data.pipeline_tag is None


def test_pushed_files_contain_no_access_token(hub: LoopbackHub, source: Path) -> None:
    model = LlmJpModernBertForMaskedLM.from_pretrained(source)
    model.config.auth = "hf_" + "aB3" * 12
    with pytest.raises(UsageError, match=r"config\.json contains an access token"):
        model.push_to_hub(NAME)
    assert set(files(hub, NAME)) == {".gitattributes"}

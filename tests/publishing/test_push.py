"""`push_to_hub` puts there what a release does."""

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
from llm_jp_modernbert.publishing import push
from llm_jp_modernbert.publishing import release as module
from llm_jp_modernbert.publishing.release import ReleaseOptions, release


@pytest.fixture(autouse=True)
def to_this_hub(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    # What checks releases costs a process of its own.
    monkeypatch.setattr(module, "check", lambda model, tokenizer, folder, form: ([], 0.0))
    monkeypatch.setattr("huggingface_hub.HfApi", lambda token=None: HfApi(hub.url, token or hub.token))
    monkeypatch.setattr(push, "PATIENT", QUICK)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("models") / "nano")


def files(hub: LoopbackHub, name: str) -> dict[str, bytes]:
    return {path: hub.read(name, path) for path in hub.repositories["model", name].find("main").files}


def test_the_same_files_as_a_release(hub: LoopbackHub, source: Path) -> None:
    model, tokenizer = (kind.from_pretrained(source) for kind in (LlmJpModernBertForMaskedLM, LlmJpTokenizer))
    model.config.checkpoint_format = "native"
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
    assert (card.data.license, card.data.pipeline_tag) == ("apache-2.0", "fill-mask")


def test_a_card_that_is_there_stays(hub: LoopbackHub, source: Path) -> None:
    release(ReleaseOptions(source, NAME), QUICK, HfApi(hub.url, token=hub.token))
    before = files(hub, NAME)
    register_for_modernbert()
    try:
        model = AutoModelForMaskedLM.from_pretrained(source)
    finally:
        unregister_for_modernbert()
    model.push_to_hub(NAME, commit_message="Again", max_shard_size="30KB")
    after = files(hub, NAME)
    assert after["README.md"] == before["README.md"]
    # The list is of the release; the weights stand there once.
    assert "release.json" not in after
    assert "model.safetensors" not in after
    assert "model.safetensors.index.json" in after
    history = hub.repositories["model", NAME]
    assert history.history(history.find("main"))[0].title == "Again"


def test_heads_tags_and_refusals(hub: LoopbackHub, source: Path) -> None:
    model = LlmJpModernBertForSequenceClassification.from_pretrained(source)
    model.push_to_hub(NAME, tags=["reviews"], revision="v1")
    repository = hub.repositories["model", NAME]
    assert "model.safetensors" in repository.find("v1").files
    assert "reviews" in ModelCard(hub.read(NAME, "README.md", "v1").decode()).data.tags
    with pytest.raises(HfHubHTTPError):
        model.push_to_hub("org/other", token=hub.guest_token)
    assert ("model", "org/other") not in hub.repositories

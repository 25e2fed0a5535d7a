"""Releases of sentence-transformers models keep their modules, prompts, similarity and scores."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import TEXTS, write_model
from huggingface_hub import HfApi, ModelCard
from loopback_hub import LoopbackHub
from releases import NAME, QUICK
from safetensors.torch import load_file, save_file
from sentence_models import KINDS, write_sentence_model
from sentence_transformers import SentenceTransformer

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.heads import ENCODER
from llm_jp_modernbert.inference.retrieval.layout import make_portable
from llm_jp_modernbert.publishing import release as module
from llm_jp_modernbert.publishing import staging
from llm_jp_modernbert.publishing.check import Checked
from llm_jp_modernbert.publishing.options import ReleaseOptions
from llm_jp_modernbert.publishing.pull import describe, pull
from llm_jp_modernbert.publishing.release import release

pytestmark = pytest.mark.usefixtures("warm_checks")

MODULE_FILES = ["modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of each kind, as sentence-transformers saves it."""
    folder = tmp_path_factory.mktemp("models")
    return {kind: write_sentence_model(folder / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def embedder(sources: dict[str, Path]) -> Path:
    """A model with CLS pooling, a dense layer, normalization, prompts and the dot product."""
    return sources["SentenceTransformer"]


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the check in a separate process, which is slow."""
    monkeypatch.setattr(module, "check", lambda *arguments: Checked())


@pytest.fixture
def copied(embedder: Path, tmp_path: Path) -> ReleaseOptions:
    """Options to release a copy of the model, which tests may change."""
    return ReleaseOptions(Path(shutil.copytree(embedder, tmp_path / "copy")), NAME, dry_run=tmp_path / "staged")


def test_embedder_keeps_modules_prompts_and_similarity(
    hub: LoopbackHub, api: HfApi, embedder: Path, tmp_path: Path
) -> None:
    released = release(ReleaseOptions(embedder, NAME), QUICK, api)
    pulled = pull(NAME, out=tmp_path / "out", patience=QUICK, api=api)
    assert pulled.skipped == ()
    expected = Path(shutil.copytree(embedder, tmp_path / "portable"))
    make_portable(expected)
    for name in (*MODULE_FILES, "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"):
        assert (pulled.folder / name).read_bytes() == (expected / name).read_bytes()
    ours, theirs = (SentenceTransformer(str(folder), device="cpu") for folder in (pulled.folder, embedder))
    assert (ours.max_seq_length, ours.similarity_fn_name, ours.default_prompt_name) == (100, "dot", "document")
    texts = [*TEXTS, "猫" * 300]
    for prompt in (None, "query", "document"):
        np.testing.assert_allclose(
            ours.encode(texts, prompt_name=prompt), theirs.encode(texts, prompt_name=prompt), atol=1e-6
        )
    assert describe(pulled.folder)["sentence-transformers"] == "Transformer, Pooling, Dense, Normalize"
    card = ModelCard((pulled.folder / "README.md").read_text(encoding="utf-8"))
    assert (card.data.library_name, card.data.pipeline_tag) == ("sentence-transformers", "sentence-similarity")
    assert "cls pooling" in card.text
    (output,) = released.checked.outputs.values()
    assert output.strip() in card.text


CARDS: dict[str, tuple[str, list[str], str, str]] = {
    "CrossEncoder": (
        "text-ranking",
        ["cross-encoder", "reranker"],
        "Reranking",
        "It scores how relevant a passage is to a query.",
    ),
    "SparseEncoder": (
        "feature-extraction",
        ["sparse-encoder", "sparse", "splade"],
        "Search",
        "Weights use max pooling (SPLADE) and are compared by the dot product.",
    ),
    "MultiVectorEncoder": (
        "feature-extraction",
        ["multi-vector", "colbert", "late-interaction"],
        "Search",
        "sentence-transformers 6.0 or later is needed, which added this type of model.",
    ),
}


@pytest.mark.parametrize("kind", CARDS)
def test_models_of_other_kinds_keep_their_outputs(kind: str, sources: dict[str, Path], tmp_path: Path) -> None:
    """The check compares them in a process without this package, and runs the example of the card."""
    staged = tmp_path / "staged"
    released = release(ReleaseOptions(sources[kind], NAME, dry_run=staged), QUICK)
    assert released.checked.difference < 1e-4
    pipeline_tag, tags, title, sentence = CARDS[kind]
    card = ModelCard((staged / "README.md").read_text(encoding="utf-8"))
    assert (card.data.library_name, card.data.pipeline_tag) == ("sentence-transformers", pipeline_tag)
    assert {*tags, "sentence-transformers"} <= {*card.data.tags}
    assert "sentence-similarity" not in card.data.tags
    assert list(released.checked.outputs) == [title]
    assert released.checked.outputs[title].strip() in card.text
    assert sentence in card.text
    if kind != "CrossEncoder":
        assert '| `query` | `"検索: "` | `encode_query` |' in card.text
    parameters = sum(weights.numel() for file in staged.rglob("*.safetensors") for weights in load_file(file).values())
    assert f"| Parameters | {parameters:,} |" in card.text


def test_encoder_with_added_modules_shows_its_embeddings(tmp_path: Path) -> None:
    source = write_model(tmp_path / "source", ENCODER)
    released = release(ReleaseOptions(source, NAME, sentence_transformers=True, dry_run=tmp_path / "staged"), QUICK)
    assert list(released.checked.outputs) == ["Sentence embeddings"]


def test_dtype_rounds_only_the_encoder(embedder: Path, tmp_path: Path) -> None:
    staged = tmp_path / "staged"
    release(ReleaseOptions(embedder, NAME, dtype="bfloat16", dry_run=staged), QUICK)
    for name, dtype in (("model.safetensors", torch.bfloat16), ("2_Dense/model.safetensors", torch.float32)):
        assert {tensor.dtype for tensor in load_file(staged / name).values()} == {dtype}


def test_changed_module_is_detected(copied: ReleaseOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    def damage_weights(license: str, source: Path, folder: Path) -> None:
        weights = load_file(folder / "2_Dense" / "model.safetensors")
        save_file({name: 2 * value for name, value in weights.items()}, folder / "2_Dense" / "model.safetensors")

    monkeypatch.setattr(staging, "stage_license", damage_weights)
    with pytest.raises(UsageError, match=r"the release's query embeddings are up to .* off the source's"):
        release(copied, QUICK)


def break_model_type(source: Path) -> None:
    settings = json.loads((source / "config_sentence_transformers.json").read_text())
    (source / "config_sentence_transformers.json").write_text(json.dumps({**settings, "model_type": "WordEncoder"}))


def break_modules(source: Path) -> None:
    (source / "modules.json").write_text("[]")


def break_path(source: Path) -> None:
    listed = json.loads((source / "modules.json").read_text())
    listed[2]["path"] = "../private"
    (source / "modules.json").write_text(json.dumps(listed))


def break_weights(source: Path) -> None:
    (source / "2_Dense" / "model.safetensors").rename(source / "2_Dense" / "pytorch_model.bin")


def break_link(source: Path) -> None:
    (source.parent / "private.json").write_text("{}")
    (source / "3_Normalize" / "config.json").unlink()
    (source / "3_Normalize" / "config.json").symlink_to(source.parent / "private.json")


def break_class(source: Path) -> None:
    listed = json.loads((source / "modules.json").read_text())
    listed[2]["type"] = "my_code.Dense"
    (source / "modules.json").write_text(json.dumps(listed))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (break_model_type, "is a WordEncoder of sentence-transformers"),
        (break_modules, r"modules\.json: expected an encoder"),
        (break_path, "modules in directories"),
        (break_weights, r"pytorch_model\.bin: not in safetensors format"),
        (break_link, "a symbolic link to a file outside"),
        (break_class, "sentence-transformers cannot load it"),
    ],
)
def test_unsupported_model_is_reported_in_one_line(
    copied: ReleaseOptions, change: Callable[[Path], None], message: str
) -> None:
    change(copied.source)
    with pytest.raises(UsageError, match=message) as caught:
        release(copied, QUICK)
    assert "\n" not in str(caught.value)
    assert not copied.dry_run.exists()  # type: ignore[union-attr]

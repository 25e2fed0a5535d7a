"""sentence-transformers loads an exported model without this package and gives the embeddings of this package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alone import REFUSE
from checkpoints import TEXTS, write_checkpoint

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.evaluation.encoders.embeddings import embedder_of
from llm_jp_modernbert.evaluation.encoders.models import EvaluatedModel, ModelName
from llm_jp_modernbert.publishing.export_sentence_transformers import add_sentence_transformers

# The last one exceeds the context length.
SENTENCES = [*TEXTS, "猫" * 200]

ALONE = (
    REFUSE
    + """
import json
from sentence_transformers import SentenceTransformer

request, answers = json.load(sys.stdin), []
for folder, trust in request["models"]:
    model = SentenceTransformer(folder, device="cpu", trust_remote_code=trust)
    vectors = model.encode(request["sentences"], show_progress_bar=False)
    similarities = model.similarity(vectors[:1], vectors)
    answers.append([model.max_seq_length, vectors.tolist(), similarities.tolist()])
json.dump(answers, sys.stdout)
"""
)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a directory by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def encode_alone(models: list[tuple[Path, bool]], home: Path) -> list[Any]:
    """Context length, embeddings and similarities of each model in a process without this package."""
    request = {"models": [(str(folder), trust) for folder, trust in models], "sentences": SENTENCES}
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-I", "-c", ALONE]
    run = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    answers: list[Any] = json.loads(run.stdout)
    return answers


def test_embeddings_equal_those_of_the_evaluation(tmp_path: Path) -> None:
    """For both poolings and both formats."""
    cases = [("plain", "mean"), ("plain", "cls"), ("native", "mean")]
    folders = []
    for checkpoint_format, pooling in cases:
        folder = write_checkpoint(tmp_path / f"{checkpoint_format}-{pooling}", checkpoint_format)
        before = contents(folder)
        added = add_sentence_transformers(folder, pooling)
        after = contents(folder)
        assert sorted(after) == sorted([*before, *added])
        assert all(after[name] == before[name] for name in before)
        folders.append(folder)
    models = [(folder, kind == "native") for folder, (kind, _) in zip(folders, cases, strict=True)]
    for folder, (_, pooling), (context_length, embeddings, similarities) in zip(
        folders, cases, encode_alone(models, tmp_path / "home"), strict=True
    ):
        assert context_length == 64
        vectors = np.array(embeddings) / np.linalg.norm(embeddings, axis=1, keepdims=True)
        expected = EvaluatedModel(ModelName(str(folder), device="cpu", dtype="float32"))
        np.testing.assert_allclose(vectors, embedder_of(expected, pooling).encode(SENTENCES), atol=1e-6)
        # `auto` uses the pooling in the export; the similarity is the cosine.
        np.testing.assert_allclose(vectors, embedder_of(expected, "auto").encode(SENTENCES), atol=1e-6)
        np.testing.assert_allclose(similarities, vectors[:1] @ vectors.T, atol=1e-6)


# Files written by SentenceTransformer.save_pretrained of version 5.1.2 for this model.
WRITTEN_BY_5_1_2: dict[str, Any] = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ],
    "sentence_bert_config.json": {"max_seq_length": 64, "do_lower_case": False},
    "1_Pooling/config.json": {
        "word_embedding_dimension": 32,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
        "pooling_mode_weightedmean_tokens": False,
        "pooling_mode_lasttoken": False,
        "include_prompt": True,
    },
    "config_sentence_transformers.json": {
        "model_type": "SentenceTransformer",
        "__version__": {"sentence_transformers": "5.1.2", "transformers": "4.57.3", "pytorch": "2.13.0+cpu"},
        "prompts": {"query": "", "document": ""},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    },
}


def test_export_has_the_layout_of_earlier_versions(tmp_path: Path) -> None:
    """Version 5.1.2 has no module `sentence_transformers.base`, which 5.4 and later name in their own layout."""
    folder = write_checkpoint(tmp_path / "model")
    assert sorted(add_sentence_transformers(folder)) == sorted(WRITTEN_BY_5_1_2)
    for name, expected in WRITTEN_BY_5_1_2.items():
        written = json.loads((folder / name).read_text(encoding="utf-8"))
        # Optional keys may be missing.
        if isinstance(written, dict):
            assert written.items() <= expected.items(), name
        else:
            assert written == expected
    # No version is stated, so no earlier version warns about a newer one.
    assert "__version__" not in json.loads((folder / "config_sentence_transformers.json").read_text())


def test_export_is_reproducible(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    add_sentence_transformers(folder)
    first = contents(folder)
    add_sentence_transformers(folder)
    assert contents(folder) == first


def test_unsupported_exports_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"pooling 'max': choose mean or cls\."):
        add_sentence_transformers(tmp_path, "max")
    with pytest.raises(UsageError, match="cannot be loaded as an encoder"):
        add_sentence_transformers(tmp_path)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UsageError, match=r"pip install 'llm-jp-modernbert\[eval\]'"):
        add_sentence_transformers(tmp_path)
    assert not list(tmp_path.iterdir())

"""Files that version 0.1.0 wrote still load: a run, a tokenised corpus, results and released folders."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import runs
import torch
from typer.testing import CliRunner

from llm_jp_modernbert.cli import app
from llm_jp_modernbert.core.files import sha256
from llm_jp_modernbert.core.results import Results

ARCHIVE = Path(__file__).parent / "fixtures" / "written-by-0.1.0.tar.xz"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files, in the current directory: the old recipe names its corpus relative to it."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_run_resumes_and_equals_a_new_run(old: Path) -> None:
    keys = json.loads((old / "recipe.json").read_text())
    resumed = runs.run({**keys, "resume_from_checkpoint": True})
    whole = runs.run({**keys, "output_dir": "whole"})
    assert resumed.state.global_step == whole.state.global_step == 20
    losses = [
        {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}
        for trainer in (resumed, whole)
    ]
    # Step 10 was written on another machine.
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert resumed.totals.tokens == whole.totals.tokens


def test_tokenized_corpus_trains_like_its_texts(old: Path) -> None:
    keys = json.loads((old / "recipe.json").read_text())
    tokenized = runs.run({**keys, "output_dir": "from-tokenized", "train_data": "tokenized", "max_steps": 5})
    texts = runs.run({**keys, "output_dir": "from-texts", "max_steps": 5})
    assert tokenized.state.log_history[0]["loss"] == texts.state.log_history[0]["loss"]


def test_results_make_a_leaderboard(old: Path) -> None:
    rows = list(Results(old / "results").rows())
    assert {row.task for row in rows} >= {"fill-mask", "retrieval", "similarity", "jcola", "ner", "pseudo-perplexity"}
    done = CliRunner().invoke(app, ["leaderboard", "--results", str(old / "results")])
    assert done.exit_code == 0, done.output
    assert "pseudo_perplexity" in done.output


@pytest.mark.parametrize("folder", ["released", "released-native"])
def test_released_folder_loads(old: Path, folder: str) -> None:
    from llm_jp_modernbert import LlmJpModernBertForMaskedLM
    from llm_jp_modernbert.publishing.staging import read_manifest

    model = LlmJpModernBertForMaskedLM.from_pretrained(old / folder)
    assert torch.isfinite(model(torch.tensor([[5, 300, 301, 6]])).logits).all()
    for name, entry in read_manifest(old / folder / "release.json").items():
        if (old / folder / name).exists():
            assert sha256(old / folder / name) == entry["sha256"]


def test_native_release_loads_with_its_own_code(old: Path) -> None:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(old / "released-native", trust_remote_code=True)
    assert config.model_type == "llm-jp-modernbert"

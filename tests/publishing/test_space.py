"""A Space is released with its model, and its folder starts the demo of that model."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from importlib.metadata import requires
from pathlib import Path

import pytest
from huggingface_hub import HfApi, SpaceCard
from loopback_hub import LoopbackHub, cards
from releases import NAME, QUICK, write_results, write_source

import llm_jp_modernbert.publishing.release as module
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.publishing.check import Checked
from llm_jp_modernbert.publishing.options import ReleaseOptions
from llm_jp_modernbert.publishing.release import release
from llm_jp_modernbert.publishing.space import GRADIO

SPACE = "org/name-demo"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("models") / "nano")


@pytest.fixture
def options(source: Path, monkeypatch: pytest.MonkeyPatch) -> ReleaseOptions:
    # The check in a separate process is slow.
    monkeypatch.setattr(module, "check", lambda *arguments: Checked())
    return ReleaseOptions(source, NAME, space=SPACE, license="apache-2.0")


def test_space_follows_the_model(
    hub: LoopbackHub, api: HfApi, options: ReleaseOptions, source: Path, tmp_path: Path
) -> None:
    release(replace(options, private=True, results=write_results(tmp_path / "results", source)), QUICK, api)
    space = hub.repositories["space", SPACE]
    assert space.private
    assert set(space.find("main").files) > {"app.py", "requirements.txt", "README.md"}
    assert f'launch(["{NAME}"], Path(__file__)' in hub.read(SPACE, "app.py", kind="space").decode()
    text = hub.read(SPACE, "README.md", kind="space").decode()
    assert cards.problems(text, "space") == ([], [])
    card = SpaceCard(text)
    assert (card.data.sdk, card.data.models, card.data.license) == ("gradio", [NAME], "apache-2.0")
    # Without results, those of the previous release are deleted.
    release(options, QUICK, api)
    assert set(space.find("main").files) == {".gitattributes", "app.py", "requirements.txt", "README.md"}
    commits = len(space.history(space.find("main")))
    release(options, QUICK, api)
    assert len(space.history(space.find("main"))) == commits


def test_space_names_the_branch_of_the_model(hub: LoopbackHub, api: HfApi, options: ReleaseOptions) -> None:
    release(replace(options, revision="v2"), QUICK, api)
    assert f'launch(["{NAME}@v2"])' in hub.read(SPACE, "app.py", kind="space").decode()


def test_dry_run_writes_the_space_beside_the_release(options: ReleaseOptions, tmp_path: Path) -> None:
    options = replace(options, dry_run=tmp_path / "staged")
    release(options, QUICK)
    release(options, QUICK)
    folder = tmp_path / "staged-space"
    assert {path.name for path in folder.iterdir()} == {"app.py", "requirements.txt", "README.md"}
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.txt, which no release wrote"):
        release(options, QUICK)


def test_space_installs_the_gradio_of_the_extra() -> None:
    required = {text.partition(";")[0] for text in requires("llm-jp-modernbert") or [] if text.startswith("gradio")}
    assert required == {f"gradio=={GRADIO.rpartition('.')[0]}.*"}


@pytest.mark.parametrize(("space", "message"), [("name", "--space name: write ORG/NAME"), ("a b/c", "--space a b/c")])
def test_invalid_name(options: ReleaseOptions, space: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        release(replace(options, space=space), QUICK)


@pytest.mark.slow
def test_written_folder_starts_the_demo(
    hub: LoopbackHub, api: HfApi, options: ReleaseOptions, source: Path, tmp_path: Path
) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed")
    release(replace(options, results=write_results(tmp_path / "results", source)), QUICK, api)
    folder = api.snapshot_download(SPACE, repo_type="space", local_dir=tmp_path / "space")
    environment = {**os.environ, **hub.environment(tmp_path / "home"), "GRADIO_SERVER_PORT": "7917"}
    process = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=environment)
    try:
        for _ in range(120):
            assert process.poll() is None
            try:
                with urllib.request.urlopen("http://127.0.0.1:7917/config") as response:
                    config = response.read().decode()
                break
            except OSError:
                time.sleep(1)
        assert "top1_accuracy" in config
        assert "fill-mask-candidates" in config
    finally:
        process.terminate()
        process.wait()

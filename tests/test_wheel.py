"""The wheel: its files, and the command in an environment without the checkout.

Runs with the other tests in about a minute; `-m "not slow"` deselects it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from llm_jp_modernbert import __version__

ROOT = Path(__file__).parent.parent
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", ".*_cache")


def run(*command: str | Path, cwd: Path) -> str:
    # Without PYTHONPATH, so that nothing is imported from the checkout.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**environment, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the checkout, since files of earlier builds would get into it."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=NOT_COPIED)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir")
    run(sys.executable, "-m", "pip", "wheel", folder / "source", *options, folder, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, and the dependencies of this environment."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    options = ("--no-deps", "--no-index", "--quiet")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, cwd=folder)
    # A path in a .pth file does not activate the .pth file of this environment's editable installation.
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    paths = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "dependencies.pth").write_text("\n".join(paths) + "\n", encoding="utf-8")
    return folder


def test_wheel_contains_the_package_and_its_data_only(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    metadata = f"llm_jp_modernbert-{__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"llm_jp_modernbert", metadata}
    excluded = ("research", "tests", "benchmarks", "examples", "docs", "llm-jp-modernbert-nano", "results")
    assert [name for name in names if set(excluded) & set(Path(name).parts)] == []
    for pattern in (
        "llm_jp_modernbert/py.typed",
        "llm_jp_modernbert/modeling/modeling_llm_jp_modernbert.py",
        "llm_jp_modernbert/quickstart/corpus/train.jsonl",
        "llm_jp_modernbert/evaluation/data/prompts.jsonl",
        "llm_jp_modernbert/training/recipes/nano.yaml",
        "llm_jp_modernbert/training/corpora/recipes/japanese-web.yaml",
        "llm_jp_modernbert/training/corpora/report.html",
        "llm_jp_modernbert/training/accelerate/gpu-8.yaml",
        "llm_jp_modernbert/training/slurm/*.sbatch",
        "llm_jp_modernbert/model_cards/templates/model_card.md",
        "llm_jp_modernbert/model_cards/templates/licenses/apache-2.0.txt",
        "*.dist-info/licenses/LICENSE",
    ):
        assert any(Path(name).match(pattern) for name in names), pattern


def test_every_data_file_of_a_package_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("modeling", "tokenization", "training", "evaluation", "model_cards/templates", "llm_jp_modernbert"):
        for path in (ROOT / folder).rglob("*"):
            name = path.relative_to(ROOT).as_posix()
            name = name if folder == "llm_jp_modernbert" else f"llm_jp_modernbert/{name}"
            if path.is_file() and not {"__pycache__", "research"} & set(path.parts):
                assert name in names, name


def test_installed_command_works_outside_the_checkout(environment: Path, tmp_path: Path) -> None:
    command = environment / "bin" / "llm-jp-modernbert"
    location = run(
        environment / "bin" / "python", "-c", "import llm_jp_modernbert as p; print(p.__file__)", cwd=tmp_path
    )
    assert Path(location.strip()).is_relative_to(environment)
    assert run(command, "--version", cwd=tmp_path).split() == ["llm-jp-modernbert", __version__]
    assert "Examples:" in run(command, "--help", cwd=tmp_path)
    run(command, "quickstart", "--steps", "2", "--out", "model", cwd=tmp_path)
    assert (tmp_path / "model" / "model.safetensors").is_file()

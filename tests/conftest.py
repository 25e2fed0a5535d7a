"""Fixtures that every folder of tests shares."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The models of the tests are tiny: a second thread gains nothing, and on a busy machine the two wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest

DATA_VARIABLE = "LLM_JP_MODERNBERT_TEST_DATA"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real tokenizers and texts that some tests need; they are skipped where there is none."""
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        pytest.skip(f"{DATA_VARIABLE} does not name a folder of test data")
    path = Path(folder)
    if not path.is_dir():
        pytest.skip(f"{DATA_VARIABLE}={folder} is no folder")
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))

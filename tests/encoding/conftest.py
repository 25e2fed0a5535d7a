"""Fixtures of bulk encoding."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def torch_is_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporting a graph of every small model would take most of the time."""
    monkeypatch.setattr("llm_jp_modernbert.inference.encoder.choice.find_spec", lambda name: None)

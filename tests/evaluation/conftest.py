"""Tiny models of several families."""

from __future__ import annotations

import pytest

from llm_jp_modernbert.evaluation.encoders.models import EvaluatedModel, ModelName


@pytest.fixture(scope="session", params=["modernbert", "bert"])
def any_model(request: pytest.FixtureRequest) -> EvaluatedModel:
    """Each family in turn."""
    return EvaluatedModel(ModelName(str(request.getfixturevalue(request.param)), device="cpu"))

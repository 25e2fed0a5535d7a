"""Tokenizing in a datatrove pipeline gives the corpus that one job writes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

pytest.importorskip("datatrove", reason="datatrove is not installed")

import runs
from datatrove.executor import LocalPipelineExecutor

from llm_jp_modernbert.training.data.datatrove import MergeParts, TokenizePart
from llm_jp_modernbert.training.data.tokenize_corpus import TokenizeOptions, tokenize_corpus


def test_tokenized_parts_merge_to_the_bytes_of_one_job(tmp_path: Path) -> None:
    texts = runs.write_corpus(tmp_path / "texts", files=4, documents=10)
    tokenizer = str(runs.write_tokenizer(tmp_path / "tokenizer", texts))
    whole = tokenize_corpus(TokenizeOptions([str(texts)], tokenizer, str(tmp_path / "whole"), shard_tokens=300))
    options = TokenizeOptions([str(texts)], tokenizer, str(tmp_path / "parts"), shard_tokens=300)
    logs = tmp_path / "logs"
    # datatrove sends its steps to the workers of a cluster; those of this machine would take seconds to start.
    step = pickle.loads(pickle.dumps(TokenizePart(options)))
    parts = LocalPipelineExecutor([step], tasks=3, workers=1, logging_dir=str(logs / "parts"))
    LocalPipelineExecutor([MergeParts(options)], depends=parts, logging_dir=str(logs / "merge")).run()
    expected, merged = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "whole", tmp_path / "parts")
    )
    assert merged == expected
    (stats,) = json.loads((logs / "parts" / "stats.json").read_text())
    assert stats["stats"]["tokens"]["total"] == whole["totals"]["tokens"]

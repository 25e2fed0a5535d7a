"""Length warm-up divides documents into pieces that grow with the steps, and changes nothing else."""

from __future__ import annotations

import signal
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
import torch
from test_synchronization import ahead
from tiny_models import tiny_config

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.modeling.flops import training_flops
from llm_jp_modernbert.training import assembly
from llm_jp_modernbert.training.length_warmup import divided, longest_piece, with_lengths
from llm_jp_modernbert.training.trainer import PretrainingTrainer

Data = tuple[Path, Path]
WARMUP = {"length_warmup_steps": 12, "initial_length": 8}


def test_length_doubles_after_equal_numbers_of_steps(data: Data, tmp_path: Path) -> None:
    recipe = runs.load(runs.recipe(*data, tmp_path / "run", **WARMUP))
    lengths = [longest_piece(recipe, step) for step in range(14)]
    assert lengths == [8] * 4 + [16] * 4 + [32] * 4 + [64] * 2
    short = runs.load(runs.recipe(*data, tmp_path / "run", length_warmup_steps=1, initial_length=60))
    assert [longest_piece(short, step) for step in range(2)] == [60, 64]
    off = runs.load(runs.recipe(*data, tmp_path / "run"))
    assert longest_piece(off, 0) == runs.SEQUENCE


@pytest.mark.parametrize(
    ("lengths", "longest", "parts"),
    [
        ([3, 4, 5, 8, 9], 4, [3, 4, 3, 2, 4, 4, 3, 3, 3]),
        ([10, 1, 7], 3, [3, 3, 2, 2, 1, 3, 2, 2]),
        ([5, 2], 8, [5, 2]),
    ],
)
def test_pieces_are_divided_evenly(lengths: list[int], longest: int, parts: list[int]) -> None:
    assert divided(np.array(lengths), longest).tolist() == parts


def test_logits_equal_those_of_the_pieces_one_by_one() -> None:
    torch.manual_seed(0)
    model = LlmJpModernBertForMaskedLM(tiny_config(initializer_range=0.2)).eval()
    ids = torch.randint(10, 320, (1, 31))
    whole = {"input_ids": ids, "cu_seqlens": torch.tensor([0, 5, 26, 31], dtype=torch.int32), "max_seqlen": 21}
    # Documents of 5, 21 and 5 tokens; the second is divided into 11 and 10.
    batch = with_lengths(whole, divided(np.array([5, 21, 5]), 12))
    assert batch["cu_seqlens"].tolist() == [0, 5, 16, 26, 31]
    assert batch["max_seqlen"] == 11
    with torch.no_grad():
        logits = model(**batch).logits[0]
        pieces = [model(input_ids=ids[:, a:b]).logits[0] for a, b in ((0, 5), (5, 16), (16, 26), (26, 31))]
        undivided = model(**whole).logits[0]
    assert torch.allclose(logits, torch.cat(pieces), atol=1e-5)
    assert not torch.allclose(logits[5:26], undivided[5:26], atol=1e-2)


@pytest.mark.parametrize("packing", ["best_fit", "none"])
def test_only_boundaries_of_the_batches_change(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: str
) -> None:
    """Rows, masks and counts are those of the run without warm-up; operations are those of the pieces."""
    changes = {"max_steps": 16, "save_strategy": "no", "gradient_accumulation_steps": 2, "packing": packing}
    keys = runs.recipe(*data, tmp_path / "run", **changes, **WARMUP)
    recipe = runs.load(keys)
    stream = assembly.make_stream(recipe, assembly.make_tokenizer(recipe))
    expected = list(islice(stream.batches(2), 32))
    seen: list[dict[str, Any]] = []
    training_step = PretrainingTrainer.training_step

    def step(self: Any, model: Any, inputs: dict[str, Any], *args: Any) -> Any:
        seen.append({**inputs, "flops": self.counter.flops[len(self.counter.losses)]})
        return training_step(self, model, inputs, *args)

    monkeypatch.setattr(PretrainingTrainer, "training_step", step)
    trainer = runs.run(keys)
    assert len(seen) == 32
    longest = []
    for number, (batch, plain) in enumerate(zip(seen, expected, strict=True)):
        assert all(torch.equal(batch[name], plain[name]) for name in ("input_ids", "labels", "label_positions"))
        lengths = batch["cu_seqlens"].diff()
        assert batch["max_seqlen"] == lengths.max() <= longest_piece(recipe, number // 2)
        assert set(plain["cu_seqlens"].tolist()) <= set(batch["cu_seqlens"].tolist())
        labels = len(batch["label_positions"])
        assert batch["flops"] == training_flops(trainer.model.config, lengths.numpy(), labels)
        longest.append(batch["max_seqlen"])
    assert max(longest[:8]) == 8
    assert max(longest[24:]) > 32
    assert torch.equal(seen[-1]["cu_seqlens"], expected[-1]["cu_seqlens"])
    assert trainer.totals.pieces == sum(len(batch["info"].lengths) for batch in expected)


def test_run_killed_in_the_warmup_equals_uninterrupted_run(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks, one of which is killed, whose batches are made steps ahead of their use."""
    changes = {"max_steps": 14, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "save_steps": 7}
    whole = runs.recipe(*data, tmp_path / "whole", **changes, **WARMUP)
    parts = runs.recipe(*data, tmp_path / "parts", **changes, **WARMUP, resume_from_checkpoint=True)
    assert runs.run_apart(whole, ranks=2) == [0, 0]
    monkeypatch.setattr(PretrainingTrainer, "get_train_dataloader", ahead)
    # After the checkpoint of step 7, which is not the first step of a length.
    assert -signal.SIGKILL in runs.run_apart(parts, kill=9.5, ranks=2)
    assert runs.run_apart(parts, ranks=2) == [0, 0]
    runs.assert_equal_runs(tmp_path / "whole", tmp_path / "parts", 14)

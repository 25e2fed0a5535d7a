"""Kills a run at random moments, resumes it each time, and compares the result with an uninterrupted run.

    python tests/kill_and_resume.py --kills 20 [--ranks 2] [--workers 2] [--seed 0]

Prints the checkpoints after every kill, and whether weights, optimizer, logged losses and samples are equal.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent / "support"))

import runs


def killed_after(seconds: float, keys: dict[str, Any], record: Path, ranks: int) -> bool:
    """Trains and kills all ranks after some seconds; returns whether training had ended before."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_train_as_group, args=(keys, record, ranks))
    process.start()
    process.join(seconds)
    ended = process.exitcode == 0
    if process.is_alive():
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()
    return ended


def _train_as_group(keys: dict[str, Any], record: Path, ranks: int) -> None:
    os.setsid()
    codes = runs.run_apart(keys, record, ranks=ranks)
    sys.exit(max(map(abs, codes)))


def main() -> int:
    """Runs the comparison; returns 0 if everything is equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp())
    corpus = runs.write_corpus(folder / "corpus")
    tokenizer = runs.write_tokenizer(folder / "tokenizer", corpus)
    changes = {
        "model": {**runs.recipe(corpus, tokenizer, folder)["model"], **runs.DROPOUT},
        "max_steps": 40 * options.kills,
        "dataloader_num_workers": options.workers,
        "per_device_train_batch_size": max(1, 2 // options.ranks),
        "gradient_accumulation_steps": 2,
    }
    whole = runs.recipe(corpus, tokenizer, folder / "whole", **changes)
    began = time.perf_counter()
    assert set(runs.run_apart(whole, folder / "whole.samples", ranks=options.ranks)) == {0}
    uninterrupted = time.perf_counter() - began
    print(f"uninterrupted: {uninterrupted:.1f} s")
    parts = {**runs.recipe(corpus, tokenizer, folder / "parts", **changes), "resume_from_checkpoint": True}
    for kill in range(1, options.kills + 1):
        # Some kills hit the start, which takes up to three seconds; the others leave enough steps for the last kill.
        seconds = draw.uniform(0.3, 3 + 1.2 * uninterrupted / options.kills)
        ended = killed_after(seconds, parts, folder / "parts.samples", options.ranks)
        saved = sorted(int(path.name.split("-")[1]) for path in (folder / "parts").glob("checkpoint-*"))
        print(f"kill {kill:2} after {seconds:.2f} s: checkpoints {saved or 'none'}", flush=True)
        assert not ended, "the run ended before all kills: increase max_steps"
    assert set(runs.run_apart(parts, folder / "parts.samples", ranks=options.ranks)) == {0}
    runs.assert_equal_runs(folder / "whole", folder / "parts", 40 * options.kills)
    samples = [runs.samples_by_step(folder / f"{name}.samples", options.ranks) for name in ("whole", "parts")]
    assert samples[0] == samples[1], "samples differ"
    print(f"equal after {options.kills} kills: weights, optimizer, losses and the samples of {len(samples[0])} steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The sequence of rows depends on the data, the seed and the settings alone."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import runs
from transformers import PreTrainedTokenizerBase
from warm_process import WarmProcess

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.loading import load_tokenizer
from llm_jp_modernbert.training.data.blocks import BlockMaker, BlockSettings
from llm_jp_modernbert.training.data.masking import IGNORED, Masking
from llm_jp_modernbert.training.data.order import DocumentOrder
from llm_jp_modernbert.training.data.readers import SourceError
from llm_jp_modernbert.training.data.sources import read_held_out, sources_of
from llm_jp_modernbert.training.data.stream import BatchStream

Data = tuple[Path, Path]


@pytest.fixture(scope="module")
def tokenizer(data: Data) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(data[1]))


def stream(data: Data, tokenizer: PreTrainedTokenizerBase, rows: int = 4, **changes: Any) -> BatchStream:
    settings = BlockSettings(runs.SEQUENCE, **{"characters": 800, **changes.pop("settings", {})})
    sources = sources_of(changes.pop("train_data", str(data[0])), "text")
    masking = Masking(tokenizer.mask_token_id, len(tokenizer), tokenizer.all_special_ids)
    return BatchStream(BlockMaker(sources, settings, tokenizer), masking, lambda step: rows, **changes)


def taken(made: BatchStream, count: int) -> list[dict[str, Any]]:
    return [batch for _, batch in zip(range(count), made.batches(), strict=False)]


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    names = ("input_ids", "labels", "cu_seqlens")
    return all((one[name].shape == other[name].shape) and bool((one[name] == other[name]).all()) for name in names)


def plain(state: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(state))


def test_batch_is_concatenated_documents(data: Data, tokenizer: PreTrainedTokenizerBase) -> None:
    for batch in taken(stream(data, tokenizer), 20):
        ids, labels, starts = batch["input_ids"], batch["labels"], batch["cu_seqlens"].long()
        restored = labels.where(labels != IGNORED, ids)[0]
        assert (starts[0], starts[-1]) == (0, ids.shape[1])
        assert (restored[starts[:-1]] == tokenizer.cls_token_id).all()
        assert (restored[starts[1:] - 1] == tokenizer.sep_token_id).all()
        assert batch["max_seqlen"] == int(starts.diff().max()) <= runs.SEQUENCE
        assert batch["info"].room == 4 * runs.SEQUENCE >= ids.shape[1]
        assert batch["info"].labels == int((labels != IGNORED).sum())


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_twice_equals_uninterrupted_run(data: Data, tokenizer: PreTrainedTokenizerBase, workers: int) -> None:
    whole = taken(stream(data, tokenizer), 60)
    resumed: list[dict[str, Any]] = []
    state = None
    for count in (23, 17, 20):
        part = stream(data, tokenizer, workers=workers)
        if state is not None:
            part.load_state_dict([state])
        resumed += taken(part, count)
        state = plain(part.state_dict())
    assert all(map(same, whole, resumed))
    assert whole[-1]["info"].epoch >= 2


@pytest.mark.parametrize("lanes", [1, 2, 3, 4])
def test_ranks_share_the_rows_of_a_single_process(data: Data, tokenizer: PreTrainedTokenizerBase, lanes: int) -> None:
    def rows(batches: list[dict[str, Any]]) -> list[Counter[tuple[int, ...]]]:
        return [Counter(map(tuple, batch["info"].samples.tolist())) for batch in batches]

    one = rows(taken(stream(data, tokenizer, 6, lanes=lanes), 40))
    ranks = [stream(data, tokenizer, 2, lanes=lanes, rank=rank, ranks=3) for rank in range(3)]
    parts = [rows(taken(rank, 20)) for rank in ranks]
    assert [a + b + c for a, b, c in zip(*parts, strict=True)] == one[:20]
    # From three ranks to two with larger batches.
    states = [plain(rank.state_dict()) for rank in ranks]
    others = [stream(data, tokenizer, 3, lanes=lanes, rank=rank, ranks=2) for rank in range(2)]
    for other in others:
        other.load_state_dict(states)
    parts = [rows(taken(other, 20)) for other in others]
    assert [a + b for a, b in zip(*parts, strict=True)] == one[20:]
    with pytest.raises(UsageError, match=f"data_lanes={lanes + 1}"):
        stream(data, tokenizer, lanes=lanes + 1).load_state_dict(states)


def test_balanced_rows_have_equal_attention_pairs_in_each_step(data: Data, tokenizer: PreTrainedTokenizerBase) -> None:
    """Any ranks share the rows of a single process."""
    settings = {"characters": 100_000, "packed": False}
    steps = {}
    for balanced in (0, 4):
        batches = taken(stream(data, tokenizer, settings={**settings, "balanced_rows": balanced}), 30)
        steps[balanced] = [int((batch["info"].lengths ** 2).sum()) for batch in batches]
    assert np.std(steps[4]) < 0.5 * np.std(steps[0])
    ranks = [
        taken(stream(data, tokenizer, 2, settings={**settings, "balanced_rows": 4}, rank=rank, ranks=2), 30)
        for rank in range(2)
    ]
    assert [sum(int((batch["info"].lengths ** 2).sum()) for batch in pair) for pair in zip(*ranks, strict=True)] == (
        steps[4]
    )


def test_balanced_order_is_the_same_after_resuming_within_a_block(
    data: Data, tokenizer: PreTrainedTokenizerBase
) -> None:
    settings = {"characters": 800, "balanced_rows": 3}
    # Blocks do not begin where steps do.
    uninterrupted = taken(stream(data, tokenizer, 6, settings=settings, lanes=2), 40)
    assert any(lane["base"] % 3 for batch in uninterrupted for lane in batch["info"].state["lanes"].values())
    for steps in (1, 8, 9, 10, 20):
        resumed = stream(data, tokenizer, 6, settings=settings, lanes=2)
        resumed.load_state_dict([plain(uninterrupted[steps - 1]["info"].state)])
        assert all(same(*pair) for pair in zip(taken(resumed, 40 - steps), uninterrupted[steps:], strict=True))


@pytest.mark.parametrize("lanes", [2, 3, 4, 6])
def test_resuming_with_ranks_that_do_not_divide_the_rows_read(
    data: Data, tokenizer: PreTrainedTokenizerBase, lanes: int
) -> None:
    begun: list[int] = []

    def resume(states: list[dict[str, Any]], ranks: int, rows: int, count: int) -> list[dict[str, Any]]:
        """Reads some batches on each rank and returns the states after them."""
        saved = []
        for rank in range(ranks):
            part = stream(data, tokenizer, rows, lanes=lanes, rank=rank, ranks=ranks)
            if states:
                part.load_state_dict(states)
            for batch in taken(part, count):
                read.update(map(tuple, batch["info"].samples.tolist()))
                begun.extend(block.number for block in batch["info"].blocks)
            saved.append(plain(part.state_dict()))
        return saved

    read: Counter[tuple[int, ...]] = Counter()
    # 15 rows on one rank, 33 after two ranks, 57 after four.
    states = resume([], 1, 3, 5)
    states = resume(states, 2, 3, 3)
    resume(states, 4, 3, 2)
    whole: Counter[tuple[int, ...]] = Counter()
    for batch in taken(stream(data, tokenizer, 3, lanes=lanes), 19):
        whole.update(map(tuple, batch["info"].samples.tolist()))
    assert read == whole
    assert begun
    assert sorted(begun) == sorted(set(begun))


def test_resuming_with_other_files_is_an_error(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    folder = runs.write_corpus(tmp_path / "one")
    data = (folder, folder)
    part = stream(data, tokenizer)
    taken(part, 5)
    state = plain(part.state_dict())
    others = {}
    for name in ("moved", "more", "fewer", "renamed"):
        others[name] = tmp_path / name / "corpus"
        shutil.copytree(folder, others[name])
    # The whole directory may be moved.
    moved = stream((others["moved"], folder), tokenizer)
    moved.load_state_dict([state])
    assert all(map(same, taken(moved, 5), taken(part, 5)))

    shutil.copy(folder / "0.jsonl", others["more"] / "3.jsonl")
    (others["fewer"] / "1.jsonl").unlink()
    (others["renamed"] / "1.jsonl").rename(others["renamed"] / "4.jsonl")
    expected = {
        "more": r"3 then, 4 now; the first new one is 3\.jsonl",
        "fewer": "3 then, 2 now",
        "renamed": "3 then and now, but with other names",
    }
    for name, what in expected.items():
        with pytest.raises(UsageError, match=rf"files of {others[name]} have changed \({what}.*Resume with"):
            stream((others[name], folder), tokenizer).load_state_dict([state])
    weighted = [{"path": str(folder), "weight": 1}, {"path": str(others["more"]), "weight": 1}]
    with pytest.raises(UsageError, match=r"sources have changed \(1 then, 2 now\)"):
        stream(data, tokenizer, train_data=weighted).load_state_dict([state])
    # Checkpoints of earlier versions do not list their files.
    del state["sources"]
    stream((others["more"], folder), tokenizer).load_state_dict([state])


def test_seed_changes_the_order_and_no_shuffling_keeps_the_files_order(
    data: Data, tokenizer: PreTrainedTokenizerBase
) -> None:
    batches = [taken(stream(data, tokenizer, settings={"seed": seed}), 1)[0] for seed in (0, 1)]
    assert not same(*batches)
    straight = stream(data, tokenizer, settings={"shuffle": False, "packed": False, "truncate": True})
    places = np.concatenate([batch["info"].samples for batch in taken(straight, 25)])
    assert places[:, 2:4].tolist() == [[shard, row] for shard in range(3) for row in range(1, 41)][:100]
    assert not places[:, 4].any()


def test_streamed_dataset_resumes_exactly(
    data: Data, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    texts = {"body": [f"文書{number}番です。天気が良い。" for number in range(50)]}
    for part in range(3):
        (tmp_path / "set").mkdir(exist_ok=True)
        datasets.Dataset.from_dict(texts).to_parquet(str(tmp_path / "set" / f"train-{part}.parquet"))
    entry = {"path": str(tmp_path / "set"), "split": "train", "text_column": "body"}
    whole = stream(data, tokenizer, train_data=[entry])
    assert len(whole.maker.sources[0].shards) == 3
    batches = taken(whole, 30)
    part = stream(data, tokenizer, train_data=[entry], workers=1)
    taken(part, 13)
    resumed = stream(data, tokenizer, train_data=[entry])
    resumed.load_state_dict([plain(part.state_dict())])
    assert all(map(same, taken(resumed, 17), batches[13:]))
    with pytest.raises(SourceError, match=r"no column 'text'; the columns are 'body'\. .*text_column"):
        sources_of([{**entry, "text_column": "text"}], "text")


def test_weights_are_shares_of_characters_and_length_limits_hold(tmp_path: Path) -> None:
    lengths = {"short": [20, 30], "long": [200, 900, 5]}
    for name, sizes in lengths.items():
        rows = [{"text": "文" * size} for size in sizes for _ in range(10)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    entries = [
        {"path": str(tmp_path / "short.jsonl"), "weight": 1},
        {"path": str(tmp_path / "long.jsonl"), "weight": 3, "min_characters": 100, "max_characters": 899},
    ]
    order = DocumentOrder(sources_of(entries, "text"), seed=0)
    read: Counter[int] = Counter()
    for _ in range(2000):
        item = order.next()
        assert item is not None
        place, document = item
        read[place.source] += document.characters
        assert document.characters in ((20, 30), (200,))[place.source]
    assert read[1] / read[0] == pytest.approx(3, rel=0.02)
    with pytest.raises(SourceError, match=r"short\.jsonl has no weight, but others have"):
        sources_of([str(tmp_path / "short.jsonl"), entries[1]], "text")
    nothing = DocumentOrder(
        sources_of([{**entries[1], "min_characters": 10_000, "max_characters": 20_000}], "text"), 0
    )
    with pytest.raises(SourceError, match=r"no document of 10,000 to 20,000 characters"):
        nothing.next()


ENDINGS = {
    "the end": "",
    "an error": "raise RuntimeError",
    "a kill": "os.kill(os.getpid(), signal.SIGKILL)",
    "a worker's error": "for _ in batches: pass",
    "a worker's kill": "os.kill(active_children()[0].pid, signal.SIGKILL)\nfor _ in batches: pass",
}


# Registers an exit handler before torch does, which is called after torch's.
FIRST = "import tempfile; folder = tempfile.TemporaryDirectory()"
IMPORTS = """
import os, signal
from multiprocessing import active_children
from transformers import AutoTokenizer
from llm_jp_modernbert.training.data.blocks import BlockMaker, BlockSettings
from llm_jp_modernbert.training.data.sources import read_held_out, sources_of
from llm_jp_modernbert.training.data.masking import Masking
from llm_jp_modernbert.training.data.stream import BatchStream
"""


@pytest.fixture(scope="module")
def importing() -> Iterator[WarmProcess]:
    """A process that has imported torch and this package, from which others are forked."""
    with WarmProcess(FIRST + IMPORTS, os.environ) as process:
        yield process


@pytest.mark.parametrize("ending", ENDINGS)
def test_workers_exit_with_their_parent(
    importing: WarmProcess, data: Data, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, ending: str
) -> None:
    """Although they ignore the signals of a scheduler."""
    tokenizer.save_pretrained(tmp_path)
    script = f"""
{IMPORTS}
class Failing(BlockMaker):
    def blocks(self, *arguments):
        for block in super().blocks(*arguments):
            # Later than the blocks that workers prepare before the first batch.
            if block.number >= 9:
                raise RuntimeError("of a worker")
            yield block
tokenizer = AutoTokenizer.from_pretrained({str(tmp_path)!r})
maker = Failing(sources_of({str(data[0])!r}, "text"), BlockSettings(64, characters=800), tokenizer)
masking = Masking(tokenizer.mask_token_id, len(tokenizer), tokenizer.all_special_ids)
made = BatchStream(maker, masking, lambda step: 1, workers=2)
batches = made.batches()
next(batches)
print(*(child.pid for child in active_children()), flush=True)
{ENDINGS[ending]}
"""
    ended = importing.run([sys.executable, "-I", "-c", script])
    workers = [int(worker) for worker in ended.stdout.split()]
    assert len(workers) == 2
    assert ended.returncode == {"the end": 0, "a kill": -signal.SIGKILL}.get(ending, 1)
    if ending.startswith("a worker's"):
        assert "of a worker" in ended.stderr if "error" in ending else "DataLoader worker" in ended.stderr
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        workers = [worker for worker in workers if is_alive(worker)]
        if not workers:
            return
        time.sleep(0.1)
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    pytest.fail("workers are still alive")


def is_alive(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().split()[2]
    except OSError:
        return False


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (1, 2), (2, 0)])
def test_unreadable_rows_are_counted_once_whatever_the_epochs(
    data: Data, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, ranks: int, workers: int
) -> None:
    lines = (data[0] / "0.jsonl").read_bytes().splitlines()
    broken = [b"{", b"\xff", b"[]", b'{"text": "\\ud83d"}']
    # The last two are after the last document.
    for name, rows in {"a": [broken[0], *lines, broken[1]], "b": [*lines, *broken[2:]]}.items():
        (tmp_path / f"{name}.jsonl").write_bytes(b"\n".join(rows))
    settings = {"train_data": str(tmp_path), "ranks": ranks, "lanes": 2, "workers": workers}
    infos = [
        batch["info"] for rank in range(ranks) for batch in taken(stream(data, tokenizer, rank=rank, **settings), 60)
    ]
    assert max(info.epoch for info in infos) >= 2
    blocks = [block for info in infos for block in info.blocks]
    assert sum(block.counts["broken_rows"] for block in blocks) == len(broken)
    problems = [problem for block in blocks for problem in block.problems]
    assert sorted(Path(problem).name.partition(":")[0] for problem in problems) == sorted(
        f"{name}.jsonl, row {row}"
        for name, row in (("a", 1), ("a", len(lines) + 2), ("b", len(lines) + 1), ("b", len(lines) + 2))
    )


@pytest.mark.parametrize("unknown", [-1, 10**6])
def test_token_id_outside_the_vocabulary_is_named(
    data: Data, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, unknown: int
) -> None:
    path = tmp_path / "ids.parquet"
    rows = [[5, 6, 7], [], [8, unknown]]
    pyarrow.parquet.write_table(pyarrow.table({"input_ids": rows}), path)
    message = rf"^{path}, row 3: token id {unknown:,}, but the tokenizer has {len(tokenizer):,} tokens\. Tokenize"
    for workers in (0, 1):
        with pytest.raises(SourceError, match=message):
            taken(stream(data, tokenizer, train_data=str(path), workers=workers), 1)
    with pytest.raises(SourceError, match=message):
        read_held_out(str(path), "text", BlockSettings(runs.SEQUENCE), tokenizer, 100)


def test_validation_reads_more_files_than_may_be_open(
    data: Data, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    rounds = [[f"文書{number}の{turn}番目。" for number in range(300) if turn < 2 or number % 3] for turn in range(3)]
    for texts in rounds:
        for text in texts:
            with (tmp_path / f"{int(text[2 : text.index('の')]):03d}.jsonl").open("a", encoding="utf-8") as file:
                # Blank rows are skipped, whether or not a file is reopened after them.
                file.write(json.dumps({"text": ""}) + "\n" + json.dumps({"text": text}) + "\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 100, hard))
    try:
        corpus = read_held_out(str(tmp_path), "text", BlockSettings(runs.SEQUENCE), tokenizer, 10**6)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    expected = tokenizer([text for texts in rounds for text in texts], add_special_tokens=False)["input_ids"]
    assert [corpus.document(index).tolist() for index in range(len(corpus))] == expected

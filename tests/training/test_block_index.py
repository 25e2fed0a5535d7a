"""An index of blocks changes which documents a worker reads, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import runs
from transformers import PreTrainedTokenizerBase
from typer.testing import CliRunner

from llm_jp_modernbert.cli import app
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.loading import load_tokenizer
from llm_jp_modernbert.training.data.block_index import BlockIndex, write_block_index
from llm_jp_modernbert.training.data.blocks import BlockMaker, BlockSettings
from llm_jp_modernbert.training.data.masking import Masking
from llm_jp_modernbert.training.data.order import FileShard, text_digest
from llm_jp_modernbert.training.data.sources import sources_of
from llm_jp_modernbert.training.data.stream import BatchStream

Data = tuple[Path, Path]


@pytest.fixture(scope="module")
def tokenizer(data: Data) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(data[1]))


def maker(train_data: Any, tokenizer: Any, index: Path | None = None, **settings: Any) -> BlockMaker:
    block_settings = BlockSettings(runs.SEQUENCE, **{"characters": 120, "interleave": 2, **settings})
    return BlockMaker(
        sources_of(train_data, "text"), block_settings, tokenizer, None if index is None else BlockIndex(index)
    )


def batches(made: BlockMaker, count: int, **settings: Any) -> tuple[list[dict[str, Any]], BatchStream]:
    tokenizer = made.tokenizer
    masking = Masking(tokenizer.mask_token_id, len(tokenizer), tokenizer.all_special_ids)
    stream = BatchStream(made, masking, lambda step: 3, **settings)
    return [batch for _, batch in zip(range(count), stream.batches(), strict=False)], stream


def weighted(corpus: Path) -> list[dict[str, Any]]:
    return [{"path": str(corpus / "0.jsonl"), "weight": 1}, {"path": str(corpus / "[12].jsonl"), "weight": 3}]


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("ranks", "lanes", "workers"), [(1, 1, 0), (1, 1, 2), (4, 8, 0), (3, 4, 1)])
def test_batches_equal_those_without_an_index(
    data: Data, tokenizer: Any, tmp_path: Path, mixed: bool, ranks: int, lanes: int, workers: int
) -> None:
    """Also after the index ends, with another number of ranks, and on resuming from a state."""
    corpus = weighted(data[0]) if mixed else str(data[0])
    path = tmp_path / "index"
    assert write_block_index(maker(corpus, tokenizer), path) == len(BlockIndex(path)) > 20
    for rank in range(ranks):
        division = {"rank": rank, "ranks": ranks, "lanes": lanes, "workers": workers}
        expected, without = batches(maker(corpus, tokenizer), 40, **division)
        indexed, stream = batches(maker(corpus, tokenizer, path), 40, **division)
        for one, other in zip(expected, indexed, strict=True):
            for name in ("input_ids", "labels", "cu_seqlens"):
                assert one[name].equal(other[name])
            assert one["info"].state == other["info"].state
        assert stream.state_dict() == without.state_dict()
    assert expected[-1]["info"].epoch >= 1
    halfway = json.loads(json.dumps(expected[13]["info"].state))
    if ranks == 1:
        masking = Masking(tokenizer.mask_token_id, len(tokenizer), tokenizer.all_special_ids)
        resumed = BatchStream(maker(corpus, tokenizer, path), masking, lambda step: 3, lanes=lanes, workers=workers)
        resumed.load_state_dict([halfway])
        assert next(resumed.batches())["input_ids"].equal(expected[14]["input_ids"])


def test_a_worker_reads_the_documents_of_its_own_blocks(
    data: Data, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within one block of interleaved files, so that reading ahead is counted as well."""
    write_block_index(maker(str(data[0]), tokenizer), tmp_path / "index")
    read = 0
    original = FileShard.read

    def counting(shard: FileShard, start: int) -> Any:
        nonlocal read
        for row in original(shard, start):
            read += 1
            yield row

    monkeypatch.setattr(FileShard, "read", counting)
    numbers = range(3, len(BlockIndex(tmp_path / "index")), 8)
    blocks = [*maker(str(data[0]), tokenizer, tmp_path / "index").blocks(numbers)]
    with_index, read = read, 0
    expected = [*maker(str(data[0]), tokenizer).blocks(numbers)]
    assert [block.places.tolist() for block in blocks] == [block.places.tolist() for block in expected]
    assert sum(len(block.places) for block in blocks) == with_index < read / 4


def test_interrupted_or_extended_index_equals_one_written_at_once(
    data: Data, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_block_index(maker(str(data[0]), tokenizer), tmp_path / "whole", epochs=3)
    interrupted = maker(str(data[0]), tokenizer)
    original = interrupted.begins

    def begins(*arguments: Any) -> Any:
        for number, position in original(*arguments):
            yield number, position
            if number == 7:
                raise KeyboardInterrupt

    monkeypatch.setattr("llm_jp_modernbert.training.data.block_index._SAVE_SECONDS", 0.0)
    monkeypatch.setattr(interrupted, "begins", begins)
    with pytest.raises(KeyboardInterrupt):
        write_block_index(interrupted, tmp_path / "parts", epochs=3)
    assert len(BlockIndex(tmp_path / "parts")) == 8
    for epochs in (1, 3):
        write_block_index(maker(str(data[0]), tokenizer), tmp_path / "parts", epochs=epochs)
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_index_of_other_data_or_settings_is_refused(data: Data, tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "index"
    write_block_index(maker(str(data[0]), tokenizer), path)
    for changes, message in (
        ({"seed": 1}, "written with seed=0, but this run has 1"),
        ({"characters": 500}, "written with characters=120, but this run has 500"),
        ({"interleave": 3}, "written with interleave=2, but this run has 3"),
    ):
        with pytest.raises(UsageError, match=message):
            batches(maker(str(data[0]), tokenizer, path, **changes), 1)
    excluding = maker(str(data[0]), tokenizer, path)
    excluding.sources = [replace(source, excluded={text_digest("text")}) for source in excluding.sources]
    with pytest.raises(UsageError, match=r"written with exclude_data=\[None\], but this run has"):
        batches(excluding, 1)
    with pytest.raises(UsageError, match=r"the files of .* have changed .* since it was written"):
        batches(maker(str(data[0] / "0.jsonl"), tokenizer, path), 1)
    with pytest.raises(UsageError, match=r"block_index: .*missing does not exist\. Write it with"):
        BlockIndex(tmp_path / "missing")
    for content in (b"", b"text", (tmp_path / "index").read_bytes()[:50]):
        (tmp_path / "broken").write_bytes(content)
        with pytest.raises(UsageError, match=r"block_index: .*broken is not an index of blocks"):
            BlockIndex(tmp_path / "broken")


def test_command_writes_the_index_of_a_recipe(data: Data, tmp_path: Path) -> None:
    """A run with it ends with the weights of a run without it."""
    keys = runs.recipe(
        data[0], data[1], tmp_path / "run", max_steps=3, warmup_steps=1, block_index=str(tmp_path / "index")
    )
    (tmp_path / "recipe.yaml").write_text(json.dumps(keys), encoding="utf-8")
    result = CliRunner().invoke(app, ["index-blocks", str(tmp_path / "recipe.yaml")])
    assert "blocks in" in result.stdout, result.output
    without = runs.recipe(data[0], data[1], tmp_path / "without", max_steps=3, warmup_steps=1)
    runs.run(keys)
    runs.run(without)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "without")]
    assert weights[0] == weights[1]

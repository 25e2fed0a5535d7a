"""FSDP2 in mixed precision keeps the same values in float32 as autocast; on one CPU process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from llm_jp_modernbert import LlmJpModernBertConfig, LlmJpModernBertForMaskedLM
from llm_jp_modernbert.training.sharding import keep_float32


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_loss_equals_unsharded_loss(group: None) -> None:
    config = LlmJpModernBertConfig(
        vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    )
    torch.manual_seed(0)
    model = LlmJpModernBertForMaskedLM(config).train()
    ids = torch.randint(8, 300, (1, 400))

    def loss() -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(input_ids=ids, labels=ids).loss

    expected = loss()
    expected.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()

    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    plugin.set_mixed_precision("bf16")
    keep_float32(plugin)
    table_dtypes = []
    mesh = init_device_mesh("cpu", (1,))
    for layer in model.model.layers:
        layer.attn.register_forward_pre_hook(lambda _, given: table_dtypes.extend(table.dtype for table in given[3]))
    # The default of accelerate's policy.
    for module in [module for module in model.modules() if type(module).__name__ in model._no_split_modules]:
        fully_shard(module, mesh=mesh, mp_policy=plugin.mixed_precision_policy)
    fully_shard(model, mesh=mesh, mp_policy=plugin.mixed_precision_policy)
    sharded = loss()
    sharded.backward()
    assert sharded.dtype == torch.float32
    assert set(table_dtypes) == {torch.float32}
    torch.testing.assert_close(sharded, expected, rtol=1e-3, atol=0)
    for name, parameter in model.named_parameters():
        difference = (parameter.grad.full_tensor() - gradients[name]).norm()
        assert difference < 0.05 * gradients[name].norm(), name


def test_other_plugins_are_unchanged() -> None:
    keep_float32(None)
    plain = FullyShardedDataParallelPlugin(fsdp_version=2)
    keep_float32(plain)
    assert plain.mixed_precision_policy is None


def test_fused_optimizer_skips_a_step_of_sharded_weights(group: None) -> None:
    """`found_inf` is a plain tensor, and the weights are distributed ones."""
    model = torch.nn.Linear(4, 4)
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    weights = []
    for skipped in (0.0, 1.0, 0.0):
        model(torch.ones(2, 4) if not skipped else torch.full((2, 4), torch.nan)).sum().backward()
        optimizer.found_inf = torch.tensor(skipped)  # type: ignore[attr-defined]
        optimizer.step()
        optimizer.zero_grad()
        weights.append(model.weight.full_tensor().clone())
    assert torch.equal(weights[0], weights[1])
    assert weights[1].isfinite().all()
    assert not torch.equal(weights[1], weights[2])
    assert {float(state["step"]) for state in optimizer.state.values()} == {2.0}

"""Counts of a training step on a GPU without hardware, against hand computations; run by `test_step_cost.py`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.measure import COMPILED, OURS
from benchmarks.recorder import OTHER, PRODUCTS, Recorder
from benchmarks.stand_in_gpu import DEVICE, inductor_for, stand_in_gpu


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder(DEVICE, predicted=3)
    with stand_in_gpu(), inductor_for(recorder.run_graph):
        yield recorder


def test_autocast_casts_as_on_cuda(recorder: Recorder) -> None:
    """On CUDA, but not on CPUs, a norm computes and returns float32."""
    rows, weight = torch.empty(4, 8, device=DEVICE), torch.empty(16, 8, device=DEVICE)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        product = functional.linear(rows, weight)
        assert product.dtype == torch.bfloat16
        assert functional.layer_norm(product, (16,)).dtype == torch.float32
        assert functional.gelu(product).dtype == torch.bfloat16


def test_tensors_pass_for_cuda_tensors(recorder: Recorder) -> None:
    assert torch.empty(1, device=DEVICE).is_cuda
    assert not torch.empty(1).is_cuda


def test_kernels_and_traffic_of_operations(recorder: Recorder) -> None:
    left, right = torch.empty(64, 32, device=DEVICE), torch.empty(64, 32, device=DEVICE)
    with recorder:
        left.t() @ (left + right)
    assert recorder.kernels == {OTHER: 1, PRODUCTS: 1}
    assert recorder.operations == {"t": 1, "add": 1, "mm": 1}
    assert recorder.bytes == {OTHER: 3 * 64 * 32 * 4, PRODUCTS: 4 * (2 * 64 * 32 + 32 * 32)}


def test_compiled_graph_counts_planned_kernels(recorder: Recorder) -> None:
    """Elementwise steps after a product are one kernel, which reads two tensors and writes one."""
    rows, weight, other = (torch.empty(size, device=DEVICE) for size in ((256, 32), (32, 64), (256, 64)))
    compiled = torch.compile(lambda: functional.gelu(rows @ weight) * other + 1)
    with recorder:
        compiled()
    assert recorder.kernels == {PRODUCTS: 1, OTHER: 1}
    assert recorder.bytes[OTHER] == 3 * 256 * 64 * 4
    assert recorder.operations == {"compiled graph": 1}
    assert recorder.graphs == 1


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (lambda tensor: tensor.sum().item(), "_local_scalar_dense"),
        (lambda tensor: bool((tensor > 0).all()), "_local_scalar_dense"),
        (lambda tensor: (tensor > 0).nonzero(), "nonzero"),
        (lambda tensor: tensor.cpu(), "copy to the host"),
        (lambda tensor: tensor.add_(torch.ones(4).to(DEVICE)), "copy to the device"),
        (lambda tensor: tensor.add_(torch.ones(4).to(DEVICE, non_blocking=True)), None),
        (lambda tensor: tensor[torch.arange(2, device=DEVICE)], None),
        (lambda tensor: torch.nn.utils.clip_grad_norm_([tensor], 1.0), None),
    ],
)
def test_waits_of_the_host(read: Callable[[torch.Tensor], object], reason: str | None, recorder: Recorder) -> None:
    tensor = torch.empty(4, device=DEVICE)
    with recorder:
        read(tensor)
    assert {wait for wait, _ in recorder.waits} == ({reason} if reason else set())


def test_saved_bytes_exclude_weights(recorder: Recorder) -> None:
    layer = torch.nn.Linear(8, 16, bias=False, device=DEVICE)
    rows = torch.empty(4, 8, device=DEVICE)
    with recorder, recorder.saved_bytes(layer) as saved, torch.autocast(DEVICE, dtype=torch.bfloat16):
        layer(rows).exp().sum()
    # The rows in bfloat16, and the result of exp in float32.
    assert sorted(saved) == [4 * 8 * 2, 4 * 16 * 4]


def run(arguments: str, folder: Path) -> dict[str, dict[str, object]]:
    result = CliRunner().invoke(app, ["step-cost", *arguments.split(), "--out", str(folder / "cost.json")])
    assert result.exit_code == 0, result.output
    costs: dict[str, dict[str, object]] = json.loads((folder / "cost.json").read_text(encoding="utf-8"))["costs"]
    return costs


def test_command_counts_products_of_a_layer(tmp_path: Path) -> None:
    costs = run("--shape nano --tokens 512 --longest 128 --no-compiled", tmp_path)
    cost = costs[OURS]
    # Four matrices, each with a product in the forward pass and two in the backward pass.
    assert cost["kernels per layer"][PRODUCTS] == 4 * 3
    assert cost["kernels per layer"]["attention"] == 2
    # The products: hidden and intermediate sizes of 128 and 192 in bfloat16, and the weights over 512 tokens.
    sizes = [(128, 3 * 128), (128, 128), (128, 2 * 192), (192, 128)]
    expected = sum(3 * 2 * (inner + outer + inner * outer / 512) for inner, outer in sizes)
    assert cost["bytes per token and layer"][PRODUCTS] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_compiled_layers_have_fewer_kernels_and_do_not_recompile(tmp_path: Path) -> None:
    costs = run("--shape nano --tokens 512 --longest 128", tmp_path)
    plain, compiled = costs[OURS], costs[COMPILED]
    assert compiled["kernels per layer"][OTHER] < plain["kernels per layer"][OTHER] / 2
    assert compiled["bytes per token and layer"][OTHER] < plain["bytes per token and layer"][OTHER] / 2
    assert compiled["kernels per layer"][PRODUCTS] == plain["kernels per layer"][PRODUCTS]
    assert compiled["graph breaks"] == compiled["recompilations in 20 batches"] == 0

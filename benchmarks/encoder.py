"""Tokens per second of the encoder, against transformers' ModernBERT with the same weights and inputs.

One sequence of each length, and a batch of lengths as they really are (lognormal, about half of the padded rectangle
is padding), which the peer gets padded, and sorted into four batches, which is its best. Only real tokens count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from transformers import ModernBertModel

from llm_jp_modernbert import LlmJpModernBertModel
from llm_jp_modernbert.training.shapes import model_config

from .measure import interleaved, report
from .memory import extra_peak_megabytes

PEER, SORTED, OURS = "transformers, sdpa", "transformers, sdpa, sorted into 4 × 4", "this library"

VOCABULARY = 99_574


def models(shape: str, dtype: torch.dtype, device: str) -> tuple[LlmJpModernBertModel, ModernBertModel]:
    """This library's encoder and transformers', with the same weights."""
    config = model_config(shape, VOCABULARY)
    config.checkpoint_format = "plain"
    torch.manual_seed(0)
    ours = LlmJpModernBertModel(config).to(device, dtype).eval()
    plain = ModernBertModel.config_class(**config.to_dict())
    with torch.device("meta"):
        peer = ModernBertModel._from_config(plain, attn_implementation="sdpa")
    peer = peer.to_empty(device=device).to(dtype).eval()
    peer.load_state_dict(ours.state_dict())
    peer.rotary_emb = type(peer.rotary_emb)(plain).to(device)
    return ours, peer


def realistic_lengths(count: int, longest: int = 1024) -> list[int]:
    """Lengths of documents: lognormal, a median of about 300 tokens, so that half of a padded batch is padding."""
    drawn = np.random.default_rng(0).lognormal(5.8, 0.5, count)
    return [int(length) for length in np.clip(drawn, 16, longest)]


def benchmark(
    lengths: Annotated[str, typer.Option(help="Tokens of the single sequences, parted by commas.")] = "1024,8192",
    batch: Annotated[int, typer.Option(help="Sequences of the batch of real lengths; 0 for none.")] = 16,
    shape: Annotated[str, typer.Option(help="nano, small or base.")] = "base",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "bfloat16",
    repeats: Annotated[int, typer.Option()] = 5,
    out: Annotated[Path | None, typer.Option(help="File for the JSON; each case adds its name.")] = None,
) -> None:
    """Encoder forward: tokens/s and extra peak memory, against transformers."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ours, peer = models(shape, getattr(torch, dtype), device)
    settings = {"shape": shape, "dtype": dtype}
    for length in map(int, filter(None, lengths.split(","))):
        ids = torch.randint(8, VOCABULARY, (1, length), device=device)
        single(ours, peer, ids, {**settings, "tokens": length}, repeats, _beside(out, f"-{length}"))
    if batch:
        of_lengths(ours, peer, realistic_lengths(batch), settings, repeats, _beside(out, "-lengths"))


def single(ours: Any, peer: Any, ids: torch.Tensor, settings: dict[str, Any], repeats: int, out: Path | None) -> None:
    """One sequence without padding."""

    @torch.inference_mode()
    def read(model: Any) -> float:
        model(input_ids=ids)
        return ids.numel()

    candidates = {PEER: lambda turn: read(peer), OURS: lambda turn: read(ours)}
    _report("encoder, one sequence", candidates, settings, repeats, out)


def of_lengths(
    ours: Any, peer: Any, lengths: Sequence[int], settings: dict[str, Any], repeats: int, out: Path | None
) -> None:
    """A batch of different lengths, padded to the longest."""
    device = next(ours.parameters()).device
    ids, mask = _padded(lengths, device)
    order = np.argsort(lengths).tolist()
    groups = [order[start : start + 4] for start in range(0, len(order), 4)]
    parts = [_padded([lengths[index] for index in group], device) for group in groups]
    tokens = float(sum(lengths))

    @torch.inference_mode()
    def read(model: Any, batches: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> float:
        for part, its_mask in batches:
            model(input_ids=part, attention_mask=its_mask)
        return tokens

    candidates: dict[str, Callable[[int], float]] = {
        PEER: lambda turn: read(peer, [(ids, mask)]),
        SORTED: lambda turn: read(peer, parts),
        OURS: lambda turn: read(ours, [(ids, mask)]),
    }
    padding = f"{1 - tokens / ids.numel():.0%}"
    _report(
        "encoder, real lengths", candidates, {**settings, "sequences": len(lengths), "padding": padding}, repeats, out
    )


def _beside(out: Path | None, part: str) -> Path | None:
    return None if out is None else out.with_name(f"{out.stem}{part}{out.suffix}")


def _padded(lengths: Sequence[int], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    columns = torch.arange(max(lengths), device=device)
    mask = (columns < torch.tensor(lengths, device=device)[:, None]).long()
    return torch.randint(8, VOCABULARY, mask.shape, device=device) * mask + 4 * (1 - mask), mask


def _report(
    name: str, candidates: dict[str, Callable[[int], float]], settings: dict[str, Any], repeats: int, out: Path | None
) -> None:
    rates = interleaved(candidates, repeats)
    memory = {candidate: round(extra_peak_megabytes(lambda run=run: run(0))) for candidate, run in candidates.items()}
    report(name, {**settings, "extra peak MB": memory}, rates, PEER, out)

"""Tokens per second of a training step on real documents, against transformers' ModernBERT with padding.

A step is forward, backward and AdamW on the same documents with the same masks and weights. Ours reads them packed;
the peer gets them padded, so many at a time, as it comes and with its option `sparse_prediction`. Only real tokens
count. The peer gets its documents in the order of the text, and sorted by length, which is its best.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn
from transformers import ModernBertForMaskedLM

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.training.shapes import model_config

from .measure import interleaved, report
from .texts import stream_of


def padded(batch: dict[str, Any], rows: int, is_sorted: bool) -> list[dict[str, torch.Tensor]]:
    """The documents of a packed batch as padded batches of so many rows."""
    lengths = batch["info"].lengths.tolist()
    order = list(range(len(lengths)))
    if is_sorted:
        order.sort(key=lambda index: lengths[index])
    ids, labels = (batch[name][0].split(lengths) for name in ("input_ids", "labels"))
    batches = []
    for first in range(0, len(order), rows):
        chosen = order[first : first + rows]
        pad = nn.utils.rnn.pad_sequence
        input_ids = pad([ids[index] for index in chosen], batch_first=True, padding_value=4)
        mask = pad([torch.ones(lengths[index], dtype=torch.long) for index in chosen], batch_first=True)
        targets = pad([labels[index] for index in chosen], batch_first=True, padding_value=-100)
        batches.append({"input_ids": input_ids, "attention_mask": mask, "labels": targets})
    return batches


def benchmark(
    files: Annotated[list[str], typer.Argument(help="Texts.")],
    tokenizer: Annotated[str, typer.Option()],
    shape: Annotated[str, typer.Option(help="nano, small or base.")] = "small",
    length: Annotated[int, typer.Option(help="Tokens of a row.")] = 1024,
    rows: Annotated[int, typer.Option(help="Rows of a batch.")] = 4,
    bf16: Annotated[bool, typer.Option("--bf16", help="Autocast.")] = False,
    repeats: Annotated[int, typer.Option()] = 5,
    out: Annotated[Path | None, typer.Option(help="File for the JSON.")] = None,
) -> None:
    """Training tokens per second on real documents, against transformers with padding."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    stream = stream_of(files, tokenizer, length, rows)
    config = model_config(shape, len(stream.maker.tokenizer))
    config.checkpoint_format = "plain"
    torch.manual_seed(0)
    ours = LlmJpModernBertForMaskedLM(config).to(device).train()
    taken = zip(range(repeats + 1), stream.batches(), strict=False)
    batches = [batch for _, batch in taken]
    tokens = [batch["info"].tokens for batch in batches]
    optimizers: dict[int, torch.optim.Optimizer] = {}

    def step(model: nn.Module, parts: Sequence[dict[str, Any]], predicted: int) -> None:
        optimizer = optimizers.setdefault(id(model), torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True))
        for part in parts:
            moved = {name: value.to(device) if torch.is_tensor(value) else value for name, value in part.items()}
            with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
                loss = model(**moved, num_items_in_batch=torch.tensor(predicted, device=device)).loss
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def packed(turn: int) -> float:
        batch = batches[turn]
        names = ("input_ids", "labels", "cu_seqlens", "max_seqlen")
        step(ours, [{name: batch[name] for name in names}], predicted(batch))
        return tokens[turn]

    def predicted(batch: dict[str, Any]) -> int:
        return int(batch["info"].labels)

    def peer(sparse: bool, is_sorted: bool) -> Any:
        plain = config.to_dict() | {"sparse_prediction": sparse}
        model = ModernBertForMaskedLM(ModernBertForMaskedLM.config_class(**plain)).to(device).train()
        model.load_state_dict(ours.state_dict())

        def run(turn: int) -> float:
            step(model, padded(batches[turn], rows, is_sorted), predicted(batches[turn]))
            return tokens[turn]

        return run

    name = "transformers, padded"
    rates = interleaved(
        {
            "packed (this library)": packed,
            name: peer(False, False),
            "transformers, padded, sparse_prediction": peer(True, False),
            "transformers, sorted by length, sparse_prediction": peer(True, True),
        },
        repeats,
    )
    padding = 1 - sum(tokens) / sum(part["input_ids"].numel() for b in batches for part in padded(b, rows, False))
    settings = {"shape": shape, "row": length, "rows": rows, "dtype": "bf16 autocast" if bf16 else "fp32"}
    report("training step, tokens/s", {**settings, "padding": f"{padding:.0%}"}, rates, name, out)

"""Probe of plain transformers: padded batches on its own classes, and its own tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

REQUIRES = ("transformers", "torch")
VERSION_OF = ("transformers",)


def load(request: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The model of transformers in float32 as a function of a batch."""
    import torch
    import transformers

    model = getattr(transformers, request["auto_class"]).from_pretrained(
        request["folder"], dtype=torch.float32, trust_remote_code=request["custom_code"]
    )

    def compute(batch: dict[str, Any]) -> dict[str, Any]:
        inputs = {name: torch.from_numpy(values) for name, values in batch.items()}
        with torch.inference_mode():
            if request["mask_token_id"] is None:
                output = model(**inputs)
                return {name: output[name].numpy() for name in request["fields"]}
            hidden = model.base_model(**inputs).last_hidden_state
            # At all tokens of 8k, the logits would take gigabytes.
            logits = model.decoder(model.head(hidden[inputs["input_ids"] == request["mask_token_id"]]))
        return {"logits": logits.numpy(), "last_hidden_state": hidden.numpy()}

    return compute


def token_ids(request: dict[str, Any]) -> list[list[int]]:
    """The ids of each text, or of its pair; of multiple choice those of all choices one after another."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(request["folder"], trust_remote_code=request["custom_code"])
    if request["head"] == "ForMultipleChoice":
        return [
            [token for choice in choices for token in tokenizer(question, choice)["input_ids"]]
            for question, *choices in request["texts"]
        ]
    return [tokenizer(*text)["input_ids"] for text in request["texts"]]

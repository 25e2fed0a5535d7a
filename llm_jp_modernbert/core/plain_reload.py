"""Loads a saved model with transformers, or sentence-transformers, alone. Run as a script in a separate process.

It proves that a saved model does not need this package. `python -I plain_reload.py` reads the request of
`clean_process.reload_alone` as JSON from standard input, and writes its result as JSON to standard output. The
functions also compute the outputs of the source that a release is compared with.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from itertools import pairwise
from typing import Any


def outputs_of(model: Any, rows: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> dict[str, Any]:
    """The outputs of a model: for each row and field a float32 tensor, as `FIELD of row NUMBER`.

    Args:
        model: a model of transformers.
        rows: batches, as nested lists by the name of the input.
        fields: fields of the output.
    """
    import torch

    tensors = {}
    with torch.inference_mode():
        for number, row in enumerate(rows):
            output = model(**{name: torch.tensor(values) for name, values in row.items()})
            for field in fields:
                tensors[f"{field} of row {number}"] = output[field].float().contiguous().clone()
    return tensors


def embeddings_of(model: Any, texts: Sequence[str]) -> dict[str, Any]:
    """The embeddings of texts with each prompt and their similarities; of a CrossEncoder the scores of pairs."""
    import torch

    if hasattr(model, "predict"):
        scores = model.predict(list(pairwise(texts)), convert_to_tensor=True)
        return {"scores": scores.float().cpu().clone()}
    tensors = {
        f"embeddings with prompt {prompt}": model.encode(list(texts), prompt_name=prompt, convert_to_tensor=True)
        for prompt in (None, *model.prompts)
    }
    tensors["similarities"] = model.similarity(*[tensors["embeddings with prompt None"]] * 2)
    return {name: torch.as_tensor(tensor).float().cpu().clone() for name, tensor in tensors.items()}


def _reload(request: dict[str, Any]) -> dict[str, Any]:
    import torch
    import transformers

    name, trust = request["model"], request["custom_code"]
    model = getattr(transformers, request["auto_class"]).from_pretrained(
        name, dtype=torch.float32, trust_remote_code=trust
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=trust)
    answers = []
    if request["masked_texts"]:
        fill_mask = transformers.pipeline(
            "fill-mask", model=model, tokenizer=tokenizer, device="cpu", top_k=request["top_k"]
        )
        answers = [fill_mask(text.replace("[MASK]", tokenizer.mask_token)) for text in request["masked_texts"]]
    if request["tensors"]:
        from safetensors.torch import save_file

        tensors = outputs_of(model, request["rows"], request["fields"])
        if request["embedder"]:
            import sentence_transformers

            embedder = getattr(sentence_transformers, request["embedder"])(
                name, device="cpu", model_kwargs={"dtype": torch.float32}
            )
            tensors |= embeddings_of(embedder, request["texts"])
        save_file(tensors, request["tensors"])
    printed = {title: _printed(title, code) for title, code in request["programs"].items()}
    return {
        "class": type(model).__name__,
        "module": type(model).__module__,
        "answers": answers,
        "token_ids": [tokenizer(text)["input_ids"] for text in request["texts"]],
        "printed": printed,
    }


def _printed(title: str, code: str) -> str:
    """The output of a program."""
    with redirect_stdout(io.StringIO()) as output:
        try:
            exec(compile(code, title, "exec"), {"__name__": "__main__"})
        except Exception as error:
            sys.exit(f"{title!r} fails with {type(error).__name__}: {' '.join(str(error).split())}")
    return output.getvalue()


if __name__ == "__main__":
    # Importing the package raises from here on.
    sys.modules["llm_jp_modernbert"] = None  # type: ignore[assignment]
    with redirect_stdout(sys.stderr):
        answer = _reload(json.load(sys.stdin))
    json.dump(answer, sys.stdout)

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
    """The outputs of a model of sentence-transformers by name, and its maximum input length.

    These are the embeddings of texts as queries, as documents and with each prompt, and the similarities of queries
    and documents; of a CrossEncoder the scores of pairs.
    """
    if hasattr(model, "predict"):
        scores = model.predict(list(pairwise(texts)), convert_to_tensor=True)
        return {"maximum lengths": _dense([model.tokenizer.model_max_length]), "scores": _dense(scores)}
    queries, documents = model.encode_query(list(texts)), model.encode_document(list(texts))
    outputs = {
        "maximum lengths": [model.max_seq_length],
        "query embeddings": queries,
        "document embeddings": documents,
        "similarities": model.similarity(queries, documents),
    }
    for prompt in (None, *model.prompts):
        outputs[f"embeddings with prompt {prompt}"] = model.encode(list(texts), prompt_name=prompt)
    return {name: _dense(output) for name, output in outputs.items()}


def _dense(output: Any) -> Any:
    """An output as a float32 tensor; the token vectors of several texts are concatenated."""
    import torch

    if isinstance(output, list) and isinstance(output[0], torch.Tensor):
        output = torch.cat(output)
    tensor = torch.as_tensor(output)
    return (tensor.to_dense() if tensor.is_sparse else tensor).float().cpu().clone()


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

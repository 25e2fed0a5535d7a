"""Runs the probe of one runtime: `python -I harness.py PROBE.py REQUEST.json OUT`.

The interpreter needs numpy and the runtime, and not this package. A probe is a script in this folder with:

* `REQUIRES`: the modules that it imports.
* `VERSION_OF`: the distributions whose versions are reported, the runtime first.
* `unsupported(request)`, optional: why the runtime cannot compute this model, or None.
* `outputs(request)`: the outputs by name, a list with an array for each text; or
  `load(request)`: a function that computes one padded batch, from `input_ids` and `attention_mask` (int64 arrays) to
  outputs by the names of transformers, which this script splits into texts. A masked language model may return its
  logits at the masks only, `(masks, vocabulary)`.
* `token_ids(request)`, optional with `load`: the ids of each text by the runtime's own tokenizer.
* `LEFT_OUT`, optional: by the name of an output, why it has None in place of the array of some texts.

The request is JSON:

* `folder`: the model. `custom_code`: whether it needs its own code.
* `head`: `ForMaskedLM`, `ForSequenceClassification`, `ForTokenClassification`, `ForQuestionAnswering`,
  `ForMultipleChoice` or `Model`. `auto_class`, `fields`: the class of transformers that loads it, and the names of its
  outputs. `mask_token_id`: of a masked language model, or null.
* `texts`: ten lists of a text; of a text and its pair; or of a question and its choices. `token_ids`: those of each
  text (of multiple choice: of each choice). `batches`: `input_ids`, `attention_mask` of the same texts, padded.
* `embedder`: class of sentence-transformers, or null. `sentences`: ten lists of a text, or of a pair for a
  CrossEncoder. `sentence_ids`: their token ids.

Outputs that may be compared, and the shape of each text's array (see `inputs.py`):

* `logits`, `last_hidden_state`, `start_logits`, `end_logits`: as in transformers, without the batch; of a masked
  language model the logits at masks only.
* `sentence_embedding` (dimensions), `score` (), `token_embeddings` (tokens, dimensions).
* `token_ids` (tokens): the ids of `texts`, and `sentence_ids`, those of `sentences`, by the runtime's own tokenizer.

OUT receives `result.json` with `status` (`ok`, `not installed`, `not supported`, `failed`), `version`, `reason`,
`seconds`, `left_out`, and `outputs`: for each name a list of `file` (raw little-endian) with `shape` and `dtype`, or
null for a text that is left out. `left_out` has the reasons by name.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any


def _missing(modules: tuple[str, ...]) -> list[str]:
    """The modules that this interpreter does not have."""
    missing = []
    for name in modules:
        try:
            is_here = importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:  # of the parent package
            is_here = False
        if not is_here:
            missing.append(name)
    return missing


def _versions(distributions: tuple[str, ...]) -> str:
    """The version of the runtime, and those of other distributions with their names."""
    first, *others = distributions
    return " · ".join([version(first), *(f"{name} {version(name)}" for name in others)])


def _batched(compute: Any, request: dict[str, Any]) -> dict[str, list[Any]]:
    """The outputs of padded batches as arrays of each text."""
    import numpy as np

    outputs: dict[str, list[Any]] = {}
    for batch in request["batches"]:
        inputs = {name: np.asarray(values, dtype=np.int64) for name, values in batch.items()}
        for name, array in compute(inputs).items():
            outputs.setdefault(name, []).extend(_rows(np.asarray(array, dtype=np.float32), name, inputs, request))
    return outputs


def _rows(array: Any, name: str, inputs: dict[str, Any], request: dict[str, Any]) -> list[Any]:
    import numpy as np

    if request["head"] in ("ForSequenceClassification", "ForMultipleChoice"):
        return list(array)
    tokens = inputs["attention_mask"].astype(bool)
    if name != "logits" or request["mask_token_id"] is None:
        return [row[mask] for row, mask in zip(array, tokens, strict=True)]
    masks = inputs["input_ids"] == request["mask_token_id"]
    # Two-dimensional logits are those at masks already.
    selected = array if array.ndim == 2 else array[masks]
    return np.split(selected, masks.sum(-1).cumsum()[:-1])


def _run(probe: Any, request: dict[str, Any], out: Path) -> dict[str, Any]:
    if missing := _missing(probe.REQUIRES):
        return {"status": "not installed", "reason": f"needs {', '.join(missing)}"}
    result: dict[str, Any] = {"version": _versions(probe.VERSION_OF)}
    if reason := getattr(probe, "unsupported", lambda request: None)(request):
        return {**result, "status": "not supported", "reason": reason}
    import numpy as np

    started = time.monotonic()
    try:
        if hasattr(probe, "load"):
            outputs = _batched(probe.load(request), request)
            if hasattr(probe, "token_ids"):
                outputs["token_ids"] = probe.token_ids(request)
        else:
            outputs = probe.outputs(request)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return {**result, "status": "failed", "reason": f"{type(error).__name__}: {lines[0] if lines else ''}"}
    result |= {"status": "ok", "seconds": time.monotonic() - started, "outputs": {}}
    result["left_out"] = getattr(probe, "LEFT_OUT", {})
    for name, arrays in outputs.items():
        entries: list[dict[str, Any] | None] = []
        for number, values in enumerate(arrays):
            if values is None:
                entries.append(None)
                continue
            array = np.ascontiguousarray(values, dtype="<i8" if name.endswith("_ids") else "<f4")
            file = f"{name}-{number}.bin"
            array.tofile(out / file)
            entries.append({"file": file, "shape": list(np.shape(values)), "dtype": array.dtype.str})
        result["outputs"][name] = entries
    return result


def main() -> None:
    """Reads the arguments, runs the probe and writes its result."""
    script, request, out = map(Path, sys.argv[1:])
    # Importing this package raises in all probes but its own.
    if not script.stem.startswith("packed_"):
        sys.modules["llm_jp_modernbert"] = None  # type: ignore[assignment]
    # After the runtime's own modules. Probes import from each other.
    sys.path.append(str(script.parent))
    spec = importlib.util.spec_from_file_location(f"probe_{script.stem}", script)
    assert spec is not None
    assert spec.loader is not None
    probe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(probe)
    with redirect_stdout(sys.stderr):
        result = _run(probe, json.loads(request.read_text(encoding="utf-8")), out)
    (out / "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()

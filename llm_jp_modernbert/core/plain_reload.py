"""Loads a saved model with transformers alone. Run as a script in a separate process, never imported.

It proves that a saved model does not need this package. `python -I plain_reload.py` reads the request of
`clean_process.reload_alone` as JSON from standard input, and writes its result as JSON to standard output.
"""

import json
import sys

request = json.load(sys.stdin)

import torch  # noqa: E402
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline  # noqa: E402

model = AutoModelForMaskedLM.from_pretrained(
    request["model"], dtype=torch.float32, trust_remote_code=request["custom_code"]
)
tokenizer = AutoTokenizer.from_pretrained(request["model"], trust_remote_code=request["custom_code"])
fill_mask = pipeline("fill-mask", model=model, tokenizer=tokenizer, device="cpu", top_k=request["top_k"])
texts = [text.replace("[MASK]", tokenizer.mask_token) for text in request["texts"]]
answers = [fill_mask(text) for text in texts]
if request["logits"]:
    from safetensors.torch import save_file

    with torch.inference_mode():
        logits = [model(input_ids=torch.tensor([row])).logits[0].contiguous() for row in request["rows"]]
    save_file({f"row-{number}": row_logits for number, row_logits in enumerate(logits)}, request["logits"])
if any(name.split(".")[0] == "llm_jp_modernbert" for name in sys.modules):
    sys.exit("llm_jp_modernbert was imported, so the check is invalid")
json.dump({"class": type(model).__name__, "module": type(model).__module__, "answers": answers}, sys.stdout)

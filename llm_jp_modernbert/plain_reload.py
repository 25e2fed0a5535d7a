"""Fills masks with transformers alone, in a process of its own. Run as a file, never imported.

Proof that a saved model needs nothing of this package: `python -I plain_reload.py` reads `{"model": DIR, "texts":
[…], "top_k": N}` as JSON from its input and writes the fill-mask pipeline's answers as JSON, each text's as a list of
`{"token_str", "token", "score"}`.
"""

import json
import sys

request = json.load(sys.stdin)

from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline  # noqa: E402

model = AutoModelForMaskedLM.from_pretrained(request["model"])
tokenizer = AutoTokenizer.from_pretrained(request["model"])
fill_mask = pipeline("fill-mask", model=model, tokenizer=tokenizer, device="cpu", top_k=request["top_k"])
texts = [text.replace("[MASK]", tokenizer.mask_token) for text in request["texts"]]
answers = [fill_mask(text) for text in texts]
if any(name.split(".")[0] == "llm_jp_modernbert" for name in sys.modules):
    sys.exit("llm_jp_modernbert was imported, so this proves nothing")
json.dump({"class": type(model).__name__, "module": type(model).__module__, "answers": answers}, sys.stdout)

"""The ten texts on which runtimes are compared with torch, and what torch computes for them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_jp_modernbert.core.files import read_config
from llm_jp_modernbert.core.references import ModelReference
from llm_jp_modernbert.inference.heads import MASKED_LM, MULTIPLE_CHOICE, QUESTION_ANSWERING, Head, head_of
from llm_jp_modernbert.inference.loading import context_length, load_model, load_tokenizer
from llm_jp_modernbert.inference.masked_logits import masked_logits
from llm_jp_modernbert.inference.retrieval.loading import load_retrieval_model, saved_type

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MASK = "[MASK]"
_WORD = "りんご"
_SHORT = (
    "",
    "猫",
    f"今日のご飯は{MASK}である。",
    f"吾輩は{MASK}である。名前はまだ{MASK}。",
    "Tokyo ２０２４年のｶﾀｶﾅとmixed-language テキスト、100%。",
    "𠮷野家で寿司🍣を食べた👩‍👩‍👧。髙島屋の﨑さんと鷗外。",
    f"一行目は{MASK}。\n\n三行目\tタブと　全角の  空白。",
)
_FIRST_SENTENCE = f"東京は日本の{MASK}であり、多くの人が電車で通勤している。"
_PARAGRAPH = "朝の駅は混雑し、夕方には商店街に明かりがともる。雨の日には傘を差した人々が、足早に横断歩道を渡っていく。"
# Tokens of the other three texts: beyond local attention, beyond most models, and the context length itself.
_LENGTHS = (300, 1000, None)
_LONGEST_IN_BATCH = 512
_QUESTION = "主人公は誰ですか？"
_CHOICES = ("猫である。", "東京に住む会社員であり、毎朝電車に乗る。", "いない。")


@dataclass(frozen=True)
class Inputs:
    """Inputs of a model, and its outputs in torch.

    Attributes:
        request: the request of the probes (see `probes/harness.py`), without the names of its files.
        expected: outputs by name, an array for each text.
        longest: tokens of the longest text.
        byte_tokens: ids of the tokens that are a byte of a character outside the vocabulary.
        unknown_token: id of the token for such characters in tokenizers without byte fallback; -1 if there is none.
    """

    request: dict[str, Any]
    expected: dict[str, list[np.ndarray]]
    longest: int
    byte_tokens: list[int]
    unknown_token: int


def make_inputs(folder: Path) -> Inputs:
    """Builds the inputs for the model in a directory, and computes its outputs with this package's model in float32.

    Raises:
        UsageError: the directory holds no model that this package loads.
    """
    import torch

    config, name = read_config(folder), str(folder)
    model, tokenizer = load_model(name, dtype="float32", device="cpu"), load_tokenizer(name)
    head, limit = head_of(config), context_length(model.config, tokenizer)
    texts = _texts(tokenizer, limit, head)
    rows = [_encode(tokenizer, text, head) for text in texts]
    mask_token_id = tokenizer.mask_token_id if head is MASKED_LM else None
    expected: dict[str, list[np.ndarray]] = {"token_ids": [np.concatenate(row) for row in rows]}
    with torch.inference_mode():
        for row in rows:
            for output, array in _compute(model, row, head, mask_token_id).items():
                expected.setdefault(output, []).append(array)
    request = {
        "folder": str(folder.resolve()),
        "custom_code": "auto_map" in config,
        "head": head.suffix,
        "auto_class": head.auto_class,
        "fields": list(head.outputs),
        "mask_token_id": mask_token_id,
        "texts": texts,
        "token_ids": [
            [choice.tolist() for choice in row] if head is MULTIPLE_CHOICE else row[0].tolist() for row in rows
        ],
        "batches": _batches(rows, tokenizer.pad_token_id or 0, head),
    }
    embedder = saved_type(ModelReference.parse(name))
    sentences: dict[str, Any] = {"embedder": embedder, "sentences": [], "sentence_ids": []}
    if embedder is not None:
        sentences, outputs = _embed(folder, embedder)
        expected |= outputs
    vocabulary = tokenizer.get_vocab()
    byte_tokens = [vocabulary[name] for byte in range(256) if (name := f"<0x{byte:02X}>") in vocabulary]
    longest = max(len(choice) for row in rows for choice in row)
    unknown_token = -1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id
    return Inputs({**request, **sentences}, expected, longest, byte_tokens, unknown_token)


def _texts(tokenizer: PreTrainedTokenizerBase, limit: int, head: Head | None) -> list[list[str]]:
    """Ten texts, with a question before each for models that read pairs, and with choices after it."""
    mask = str(tokenizer.mask_token) if head is MASKED_LM else _WORD

    def inputs(text: str) -> list[str]:
        text = text.replace(MASK, mask)
        if head is MULTIPLE_CHOICE:
            return [text, *_CHOICES]
        return [_QUESTION, text] if head is QUESTION_ANSWERING else [text]

    def length(text: str) -> int:
        return max(map(len, _encode(tokenizer, inputs(text), head)))

    def fit(text: str, allowed: int) -> str:
        """The longest beginning of a text with at most a number of tokens."""
        units = re.findall(rf"{re.escape(MASK)}|.", text, re.DOTALL)
        low, high = 0, len(units)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if length("".join(units[:middle])) <= allowed else (low, middle - 1)
        return "".join(units[:low])

    texts = [fit(text, limit) for text in _SHORT]
    for tokens in _LENGTHS:
        allowed = min(tokens or limit, limit)
        # More text than fits: a paragraph has more than eight tokens.
        texts.append(fit(_FIRST_SENTENCE + _PARAGRAPH * (allowed // 8), allowed))
    return [inputs(text) for text in texts]


def _encode(tokenizer: PreTrainedTokenizerBase, text: Sequence[str], head: Head | None) -> list[np.ndarray]:
    """The token ids of a text or pair, or of each choice."""
    pairs = [(text[0], choice) for choice in text[1:]] if head is MULTIPLE_CHOICE else [tuple(text)]
    return [np.asarray(tokenizer(*pair)["input_ids"], dtype=np.int64) for pair in pairs]


def _compute(model: Any, row: Sequence[np.ndarray], head: Head, mask_token_id: int | None) -> dict[str, np.ndarray]:
    """The outputs of this package's model for one text, without padding between its parts."""
    import torch

    if head is MULTIPLE_CHOICE:
        batch = _padded(row, 0)
        inputs = {name: torch.tensor(values)[None] for name, values in batch.items()}
        return {"logits": model(**inputs).logits[0].numpy()}
    ids = torch.from_numpy(row[0])[None]
    if head is MASKED_LM:
        places = np.flatnonzero(row[0] == mask_token_id).tolist()
        logits = masked_logits(model, [row[0].tolist()], [places])[0]
        return {"logits": logits.numpy(), "last_hidden_state": model.model(input_ids=ids).last_hidden_state[0].numpy()}
    output = model(input_ids=ids)
    return {name: output[name][0].numpy() for name in head.outputs}


def _padded(rows: Sequence[np.ndarray], pad: int) -> dict[str, list[list[int]]]:
    width = max(map(len, rows))
    return {
        "input_ids": [[*row.tolist(), *[pad] * (width - len(row))] for row in rows],
        "attention_mask": [[1] * len(row) + [0] * (width - len(row)) for row in rows],
    }


def _batches(rows: Sequence[Sequence[np.ndarray]], pad: int, head: Head) -> list[dict[str, Any]]:
    """The texts in their order as padded batches: the short ones together, each long one alone."""
    if head is MULTIPLE_CHOICE:
        return [{name: [values] for name, values in _padded(row, pad).items()} for row in rows]
    short = [row[0] for row in rows if len(row[0]) <= _LONGEST_IN_BATCH]
    # The texts are sorted so that the long ones are the last.
    return [_padded(short, pad), *(_padded(row, pad) for row in rows[len(short) :])]


def _embed(folder: Path, kind: str) -> tuple[dict[str, Any], dict[str, list[np.ndarray]]]:
    """The inputs of a model of sentence-transformers, without prompts, and its outputs in float32."""
    model = load_retrieval_model(str(folder), device="cpu")
    tokenizer, limit = model.tokenizer, model.max_seq_length
    sentences = _texts(tokenizer, limit, QUESTION_ANSWERING if kind == "CrossEncoder" else None)
    ids = [tokenizer(*sentence)["input_ids"] for sentence in sentences]
    outputs: dict[str, list[np.ndarray]] = {"sentence_ids": [np.asarray(row) for row in ids]}
    # One by one: without padding.
    if kind == "CrossEncoder":
        outputs["score"] = [model.predict([tuple(pair)], prompt="")[0] for pair in sentences]
    elif kind == "MultiVectorEncoder":
        outputs["token_embeddings"] = [np.asarray(model.encode_document(text)[0]) for text in sentences]
    else:
        embeddings = [model.encode(text, prompt="", convert_to_tensor=True)[0] for text in sentences]
        outputs["sentence_embedding"] = [embedding.to_dense().float().numpy() for embedding in embeddings]
    return {"embedder": kind, "sentences": sentences, "sentence_ids": ids}, outputs

"""`load_encoder` and `Encoder`: vectors, filled masks and labels of many texts by the fastest backend."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.references import ModelReference

from ..heads import ENCODER, Head, head_of
from ..loading import check_vocabulary, context_length, load_model, load_tokenizer, usable_device
from ..retrieval.loading import load_retrieval_model, saved_type
from .batching import Batch, pack, split
from .runner import Runner
from .torch_runner import TorchRunner

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BackendName = Literal["auto", "torch", "onnx", "openvino"]
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
Text = str | Sequence[int]

_WINDOW = 4096


class Encoder:
    """A model and its tokenizer, for many texts; create it with `load_encoder`."""

    def __init__(
        self,
        runner: Runner,
        tokenizer: PreTrainedTokenizerBase,
        config: Any,
        head: Head,
        backend: str,
        dtype: str,
        max_length: int | None = None,
        prompts: dict[str, str] | None = None,
        default_prompt: str | None = None,
        has_modules: bool = False,
    ) -> None:
        self.runner = runner
        self.tokenizer = tokenizer
        self.config = config
        self.head = head
        self.backend = backend
        self.dtype = dtype
        self.max_length = max_length or context_length(config, tokenizer)
        self.prompts = prompts or {}
        self.default_prompt = default_prompt
        self._has_modules = has_modules

    def encode(
        self,
        texts: Sequence[Text],
        prompt: str | None = None,
        pooling: Literal["mean", "cls"] | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        tokens_per_batch: int = 8192,
        progress: Callable[[float], None] | None = None,
    ) -> np.ndarray:
        """Computes a vector per text, float32 `(texts, dimensions)`."""
        vectors = np.empty((len(texts), 0), np.float32)
        done = 0
        for indices, batch in self.encode_batches(texts, prompt, pooling, dimensions, normalize, tokens_per_batch):
            if not vectors.size:
                vectors = np.empty((len(texts), batch.shape[1]), np.float32)
            vectors[indices] = batch
            done += len(indices)
            if progress is not None:
                progress(done / len(texts))
        return vectors

    def encode_batches(
        self,
        texts: Iterable[Text],
        prompt: str | None = None,
        pooling: Literal["mean", "cls"] | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        tokens_per_batch: int = 8192,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the vectors of any number of texts batch by batch, with flat memory.

        Yields:
            int64 `(documents,)` places of the texts, and their float32 `(documents, dimensions)` vectors.
        """
        if prompt is None:
            prompt = self.default_prompt
        prompt = self.prompts.get(prompt, prompt) if prompt else ""
        if pooling is None and not self._has_modules:
            pooling = "mean"
        for batch in self._batches(texts, prompt, tokens_per_batch):
            vectors = self._embed(batch, pooling)
            if dimensions is not None:
                vectors = vectors[:, :dimensions]
            if normalize:
                vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
            yield batch.indices, vectors

    def _embed(self, batch: Batch, pooling: str | None) -> np.ndarray:
        if pooling is None:
            return self.runner.run(batch.input_ids, batch.cu_seqlens)["sentence_embedding"]
        if isinstance(self.runner, TorchRunner):
            return self.runner.pool(batch.input_ids, batch.cu_seqlens, pooling)
        hidden = self.runner.run(batch.input_ids, batch.cu_seqlens)["last_hidden_state"]
        starts = batch.cu_seqlens[:-1]
        if pooling == "cls":
            return hidden[starts]
        return np.add.reduceat(hidden, starts) / np.diff(batch.cu_seqlens)[:, None].astype(np.float32)

    def _batches(self, texts: Iterable[Text], prompt: str, tokens_per_batch: int) -> Iterator[Batch]:
        texts, start = iter(texts), 0
        while window := list(islice(texts, _WINDOW)):
            rows = [
                self.tokenizer(prompt + text, truncation=True, max_length=self.max_length, verbose=False)["input_ids"]
                if isinstance(text, str)
                else list(text)
                for text in window
            ]
            for places in split([len(row) for row in rows], tokens_per_batch):
                yield pack([rows[place] for place in places], [start + place for place in places])
            start += len(window)


def load_encoder(
    name: str,
    backend: BackendName = "auto",
    dtype: DtypeName = "auto",
    device: str | None = None,
    revision: str | None = None,
) -> Encoder:
    """Loads a model for inference on many texts.

    Args:
        name: local path, repository, or `ORG/NAME@REVISION`.
        backend: `"torch"`, `"onnx"` (ONNX Runtime), `"openvino"`, or `"auto"`.
        dtype: `"auto"` (as saved), `"float32"`, `"bfloat16"` or `"float16"`.
        device: such as `"cpu"` or `"cuda"`; by default a GPU if there is one.
        revision: branch, tag or commit of the repository, if the name does not have one.

    Raises:
        UsageError: the model cannot be loaded, or a package of the backend is missing.
    """
    if backend not in ("auto", "torch"):
        raise UsageError(f"backend {backend}: not available yet.")
    reference = ModelReference.parse(name, revision)
    reference.check_model()
    device = usable_device(device)
    tokenizer = load_tokenizer(name, revision)
    if saved_type(reference) == "SentenceTransformer":
        embedder = load_retrieval_model(str(reference), device, dtype)
        transformer, *modules = embedder
        model = transformer.model
        default = embedder.default_prompt_name
        return Encoder(
            TorchRunner(model, modules),
            tokenizer,
            model.config,
            ENCODER,
            "torch",
            str(model.dtype).removeprefix("torch."),
            embedder.max_seq_length,
            dict(embedder.prompts),
            default,
            has_modules=True,
        )
    model = load_model(name, None, revision, dtype, device)
    check_vocabulary(model.config, tokenizer)
    return Encoder(
        TorchRunner(model),
        tokenizer,
        model.config,
        head_of(model.config.to_dict()),
        "torch",
        str(model.dtype).removeprefix("torch."),
    )

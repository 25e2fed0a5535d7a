"""`load_encoder` and `Encoder`: vectors, filled masks and labels of many texts by the fastest backend."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_jp_modernbert.core.errors import UsageError, first_line
from llm_jp_modernbert.core.references import ModelReference

from ..fill_mask import FilledText, predict_masks
from ..heads import ENCODER, MASKED_LM, SEQUENCE_CLASSIFICATION, Head, head_of
from ..loading import (
    OUR_MODEL_TYPES,
    check_vocabulary,
    context_length,
    load_model,
    load_tokenizer,
    loading_errors,
    usable_device,
)
from ..masked_logits import packed_positions
from ..packed_weights import prepare_for_inference
from ..retrieval.loading import saved_type
from .batching import Batch, Batcher, Text, is_pair, padding_cost
from .choice import BackendName, DtypeName, choose_backend, choose_dtype
from .pooling import Embedder, Pooling, load_embedder, pool
from .runner import Runner
from .torch_runner import TorchRunner

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Progress = Callable[[float], None]
"""Called with the completed share of the work, from 0 to 1."""


@dataclass(frozen=True)
class Classification:
    """The labels of a text.

    Attributes:
        label: the label with the highest score.
        score: its score: a probability, or the value of a regression model.
        scores: the score of every label.
    """

    label: str
    score: float
    scores: dict[str, float]


class Encoder:
    """A model and its tokenizer for many texts; create it with `load_encoder`.

    Texts are tokenised in the background and computed in packed batches of similar lengths; results have the order of
    the texts and do not depend on their batches.

    Args:
        runner: computes batches.
        tokenizer: the model's tokenizer.
        config: the model's configuration.
        head: the model's head.
        backend: `"torch"`, `"onnx"` or `"openvino"`.
        dtype: data type of the weights, such as `"float32"`.
        embedder: modules and settings of an embedder of sentence-transformers.

    Attributes:
        max_length: maximum number of tokens of a text, special tokens included.
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: PreTrainedTokenizerBase,
        config: Any,
        head: Head,
        backend: str,
        dtype: str,
        embedder: Embedder | None = None,
    ) -> None:
        check_vocabulary(config, tokenizer)
        self.runner, self.tokenizer, self.config, self.head = runner, tokenizer, config, head
        self.backend, self.dtype = backend, dtype
        self.embedder = embedder
        limits = (context_length(config, tokenizer), None if embedder is None else embedder.max_length)
        self.max_length = int(min(limit for limit in limits if limit is not None))

    @property
    def prompts(self) -> dict[str, str]:
        """Prompts of an embedder by name."""
        return {} if self.embedder is None else self.embedder.prompts

    @property
    def default_prompt(self) -> str | None:
        """Name of the prompt that an embedder uses by default."""
        return None if self.embedder is None else self.embedder.default_prompt

    def encode(
        self,
        texts: Iterable[Text],
        prompt: str | None = None,
        pooling: Pooling | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        tokens_per_batch: int = 8192,
        progress: Progress | None = None,
        truncate: bool = True,
    ) -> np.ndarray:
        """Computes a vector for each text.

        Args:
            texts: texts, or lists of token ids with special tokens.
            prompt: name of one of the model's prompts, or a text to put before each text; by default the model's
                default prompt, and `""` for none. Not used for token ids.
            pooling: `"mean"` or `"cls"`: the mean of a text's last hidden states, or the first one. By default the
                modules of an embedder of sentence-transformers, and `"mean"` for other models.
            dimensions: keeps that many leading dimensions, before normalisation (Matryoshka, arXiv 2205.13147).
            normalize: whether vectors are scaled to length 1.
            tokens_per_batch: maximum tokens of a batch.
            progress: called with the completed share.
            truncate: whether texts above the maximum length are truncated and counted in the log, or raise.

        Returns:
            float32 `(texts, dimensions)`.

        Raises:
            UsageError: a text cannot be used, an option does not fit the model, or a vector is not finite.

        Example:
            >>> load_encoder("ORG/EMBEDDER").encode(["猫はどこ？"], prompt="query").shape
            (1, 768)
        """
        settings = (prompt, pooling, dimensions, normalize, tokens_per_batch, truncate)
        texts = _listed(texts)
        if not texts:
            return next(self.encode_batches([""], *settings))[1][:0]
        vectors = np.empty((len(texts), 0), np.float32)
        done = 0
        for indices, batch in self.encode_batches(texts, *settings):
            if not done:
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
        pooling: Pooling | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        tokens_per_batch: int = 8192,
        truncate: bool = True,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Computes the vectors of any number of texts in constant memory.

        Args:
            texts: texts or lists of token ids; an iterator is read in a background thread, some thousands ahead.
            prompt, pooling, dimensions, normalize, tokens_per_batch, truncate: as for `encode`.

        Yields:
            int64 `(documents,)` places of the texts of a batch, and their float32 `(documents, dimensions)` vectors.
            Batches are not in the order of the texts.

        Raises:
            UsageError: as for `encode`.
        """
        if pooling not in (None, "mean", "cls"):
            raise UsageError(f"pooling is {pooling!r}; choose mean or cls.")
        if self.head not in (ENCODER, MASKED_LM):
            raise UsageError(f"encode needs an encoder or a masked language model, but this is {_a(self.head.name)}.")
        how = pooling or ("mean" if self.embedder is None else self.embedder.modules)
        for batch in self._batcher.batches(texts, tokens_per_batch, self._prompt(prompt), truncate):
            vectors = pool(self._hidden_states(batch), batch.cu_seqlens, how)
            if dimensions is not None:
                if not 1 <= dimensions <= vectors.shape[1]:
                    raise UsageError(
                        f"dimensions is {dimensions}; the vectors of this model have {vectors.shape[1]}. "
                        "Choose at most that many."
                    )
                vectors = vectors[:, :dimensions]
            if not np.isfinite(vectors).all():
                raise UsageError("the model gives vectors that are not finite. Try dtype float32.")
            if normalize:
                # As torch.nn.functional.normalize.
                vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
            yield batch.indices, vectors

    def fill_mask(
        self,
        texts: Iterable[str],
        top_k: int = 5,
        problems: Callable[[int, UsageError], None] | None = None,
        tokens_per_batch: int = 8192,
        progress: Progress | None = None,
    ) -> list[FilledText]:
        """Predicts the masked tokens of texts; see `predict_masks`.

        Args:
            texts: texts with at least one mask, written as the tokenizer's mask token or `[MASK]`.
            top_k: number of candidates per mask.
            problems: callback invoked with the index and the error of each text that cannot be used; if None, such
                texts raise.
            tokens_per_batch: maximum tokens of a batch.
            progress: called with the completed share.

        Raises:
            UsageError: the model is not a masked language model, or as `predict_masks`.
        """
        self._require(MASKED_LM, "fill_mask")
        texts = _listed(texts)
        return predict_masks(
            self._mask_logits,
            self.config,
            self.tokenizer,
            texts,
            top_k,
            problems,
            self._padding_cost,
            tokens_per_batch,
            progress,
        )

    def classify(
        self,
        texts: Iterable[Text],
        tokens_per_batch: int = 8192,
        progress: Progress | None = None,
        truncate: bool = True,
    ) -> list[Classification]:
        """Scores the labels of texts, as transformers' pipeline does.

        Scores are probabilities of one label per text (softmax), or of each label (sigmoid) if the model's
        `problem_type` is `multi_label_classification` or it has only one label, or values for `regression`.

        Args:
            texts: texts, pairs of texts as tuples, or lists of token ids with special tokens.
            tokens_per_batch: maximum tokens of a batch.
            progress: called with the completed share.
            truncate: whether texts above the maximum length are truncated and counted in the log, or raise.

        Raises:
            UsageError: the model does not classify texts, or a text cannot be used.

        Example:
            >>> load_encoder("ORG/CLASSIFIER").classify([("雨が降る。", "雨が止む。")])[0].label
            'contradiction'
        """
        self._require(SEQUENCE_CLASSIFICATION, "classify")
        texts = _listed(texts)
        if getattr(self.config, "type_vocab_size", 1) > 1 and any(map(is_pair, texts)):
            raise UsageError(f"classify reads no pairs with a {self.config.model_type}, whose tokens have types.")
        results: list[Any] = [None] * len(texts)
        done = 0
        for batch in self._batcher.batches(texts, tokens_per_batch, truncate=truncate):
            logits = self.runner.run(batch.input_ids, batch.cu_seqlens)["logits"]
            if not np.isfinite(logits).all():
                raise UsageError("the model gives logits that are not finite. Try dtype float32.")
            for index, scores in zip(batch.indices, self._scores(logits), strict=True):
                best = int(scores.argmax())
                names = {self.config.id2label[number]: float(score) for number, score in enumerate(scores)}
                results[index] = Classification(self.config.id2label[best], float(scores[best]), names)
            done += len(batch.indices)
            if progress is not None:
                progress(done / len(texts))
        return results

    @cached_property
    def _batcher(self) -> Batcher:
        return Batcher(self.tokenizer, self.max_length, self.config.vocab_size, self._padding_cost)

    @property
    def _padding_cost(self) -> float:
        return 0.0 if isinstance(self.runner, TorchRunner) else padding_cost(self.config)

    def _prompt(self, prompt: str | None) -> str:
        prompt = self.default_prompt if prompt is None else prompt
        return self.prompts.get(prompt, prompt) if prompt else ""

    def _hidden_states(self, batch: Batch) -> torch.Tensor:
        if isinstance(self.runner, TorchRunner):
            return self.runner.hidden_states(batch.input_ids, batch.cu_seqlens)
        import torch

        return torch.from_numpy(self.runner.run(batch.input_ids, batch.cu_seqlens)["last_hidden_state"])

    def _mask_logits(self, rows: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        import torch

        logits = torch.from_numpy(self.runner.run(*packed_positions(rows, positions))["logits"])
        if bool(logits.isnan().any()):
            raise UsageError("the model gives NaN logits. Try dtype float32.")
        return list(logits.split([len(places) for places in positions]))

    def _scores(self, logits: np.ndarray) -> np.ndarray:
        if self.config.problem_type == "regression":
            return logits
        if self.config.problem_type == "multi_label_classification" or logits.shape[1] == 1:
            return np.asarray(1 / (1 + np.exp(-logits)))
        exponentials = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(1, keepdims=True))

    def _require(self, head: Head, method: str) -> None:
        if self.head != head:
            raise UsageError(f"{method} needs {_a(head.name)}, but this is {_a(self.head.name)}.")


def _listed(texts: Iterable[Any]) -> list[Any]:
    """The texts as a list: an iterator has no length."""
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise UsageError(f"texts is {str(texts)[:30]!r}. Give a list of texts.")
    return list(texts)


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def load_encoder(
    name: str,
    backend: BackendName = "auto",
    dtype: DtypeName = "auto",
    device: str | None = None,
    revision: str | None = None,
    head: Head | None = None,
    tokenizer: str | None = None,
) -> Encoder:
    """Loads a model for inference on many texts.

    Args:
        name: local path, repository, or `ORG/NAME@REVISION`: a model of transformers, or an embedder of
            sentence-transformers.
        backend: `"torch"`, `"onnx"` (ONNX Runtime), `"openvino"`, or `"auto"`: on a CPU OpenVINO or ONNX Runtime if
            installed, else torch. The first use of a model exports its graph into a cache, which takes a minute.
        dtype: `"float32"`, `"bfloat16"`, `"float16"`, or `"auto"`: that of the checkpoint, but on a CPU float32
            unless it is bfloat16 and the processor has instructions for it. On a CPU, `"float16"` stores weights in
            float16 and computes in float32.
        device: such as `"cpu"` or `"cuda"`; by default the accelerator if there is one.
        revision: branch, tag or commit of the repository, if the name does not have one.
        head: head of the model; by default that named in its config.json.
        tokenizer: local path or repository of a tokenizer; by default the model's own.

    Raises:
        UsageError: the model cannot be loaded, the backend is not installed, or the options do not fit together.

    Example:
        >>> encoder = load_encoder("llm-jp/llm-jp-modernbert-base")
        >>> encoder.encode(["東京", "大阪の天気"], pooling="mean").shape
        (2, 768)
    """
    from transformers import AutoConfig

    reference = ModelReference.parse(name, revision)
    reference.check_model()
    device = usable_device(device)
    try:
        config = AutoConfig.from_pretrained(reference.name, revision=reference.revision)
    except loading_errors() as error:
        raise UsageError(f"{reference}: cannot be loaded. {first_line(error)}") from error
    dtype_name = choose_dtype(dtype, config.dtype, device)
    chosen = choose_backend(backend, dtype_name, device, config.model_type)
    saved = saved_type(reference) if head is None else None
    if saved in ("SparseEncoder", "MultiVectorEncoder"):
        raise UsageError(f"{reference}: is a {saved}, which has no vector per text. Use sentence-transformers.")
    embedder = load_embedder(reference) if saved == "SentenceTransformer" else None
    runner: Runner | None = None
    if chosen != "torch":
        try:
            runner = _graph_runner(name, revision, chosen, dtype_name)
            # A graph has the head of the checkpoint.
            head = head_of(config.to_dict())
        except UsageError as error:
            if backend != "auto":
                raise
            logger.warning("The backend %s cannot be used, and torch is: %s", chosen, error)
            chosen = "torch"
    if runner is None:
        model = _load_torch(name, head, revision, dtype_name, device, embedder)
        runner, config = TorchRunner(model, () if embedder is None else embedder.modules), model.config
    return Encoder(
        runner,
        load_tokenizer(tokenizer) if tokenizer else load_tokenizer(name, revision),
        config,
        head or head_of(config.to_dict()),
        chosen,
        dtype_name,
        embedder,
    )


def _graph_runner(name: str, revision: str | None, backend: str, dtype: str) -> Runner:
    import torch

    from ..graphs.export import graph_folder
    from ..graphs.runners import OnnxRunner, OpenVinoRunner

    threads = torch.get_num_threads()
    if backend == "onnx":
        return OnnxRunner(graph_folder(name, "onnx", revision), threads)
    return OpenVinoRunner(graph_folder(name, "openvino", revision), dtype, threads)


def _load_torch(
    name: str, head: Head | None, revision: str | None, dtype: str, device: str, embedder: Embedder | None
) -> PreTrainedModel:
    import torch

    # float16 on a CPU means packed weights, whose rounding happens once.
    is_half = dtype == "float16" and device == "cpu"
    model = load_model(name, head, revision, "float32" if is_half else dtype, device)
    for module in () if embedder is None else embedder.modules:
        module.to(device, model.dtype)
    if device == "cpu" and model.config.model_type in OUR_MODEL_TYPES:
        return prepare_for_inference(model, getattr(torch, dtype))
    return model.to(getattr(torch, dtype))

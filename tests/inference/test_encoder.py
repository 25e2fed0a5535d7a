"""Vectors, masks and labels equal those of transformers and sentence-transformers, whatever the batches."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import LABELS, TEXTS, write_model
from sentence_models import write_sentence_model
from sentence_transformers import SentenceTransformer

import llm_jp_modernbert
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.encoder.batching import padding_cost
from llm_jp_modernbert.inference.encoder.choice import choose_backend, choose_dtype
from llm_jp_modernbert.inference.encoder.encoder import Encoder, load_encoder
from llm_jp_modernbert.inference.encoder.runner import Runner
from llm_jp_modernbert.inference.heads import MASKED_LM, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION
from llm_jp_modernbert.inference.loading import usable_device
from llm_jp_modernbert.inference.masked_logits import split
from llm_jp_modernbert.inference.packed_forward import packed_forward

SAMPLES = [*TEXTS, "x" * 500, "", "猫", *(text[:place] for text in TEXTS for place in range(3, 12))]
PAIRS = [(TEXTS[0], TEXTS[1]), (TEXTS[2], TEXTS[2]), (TEXTS[1], "猫")]


@pytest.fixture(scope="module", autouse=True)
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of graphs for these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_JP_MODERNBERT_CACHE", str(tmp_path_factory.mktemp("graphs")))
        yield


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentence_model(tmp_path_factory.mktemp("models") / "embedder", "SentenceTransformer")


@pytest.fixture(scope="module")
def peer(embedder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(embedder), device="cpu")


@pytest.fixture(scope="module")
def encoder(embedder: Path) -> Encoder:
    return load_encoder(str(embedder), "torch", device="cpu")


@pytest.fixture(scope="module")
def masked_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "masked-lm", MASKED_LM)


@pytest.mark.parametrize("prompt", [None, "query", "document"])
@pytest.mark.parametrize("tokens_per_batch", [64, 8192])
def test_vectors_equal_those_of_sentence_transformers(
    peer: SentenceTransformer, encoder: Encoder, prompt: str | None, tokens_per_batch: int
) -> None:
    expected = peer.encode(SAMPLES, prompt_name=prompt, normalize_embeddings=True)
    vectors = encoder.encode(SAMPLES, prompt, tokens_per_batch=tokens_per_batch)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


class OtherRunner:
    """A backend without access to its device, such as a graph: torch behind the interface of runners."""

    def __init__(self, runner: Runner) -> None:
        self.run = runner.run


def test_other_backends_give_equal_vectors(encoder: Encoder) -> None:
    settings = (encoder.tokenizer, encoder.config, encoder.head, "other", "float32", encoder.embedder)
    other = Encoder(OtherRunner(encoder.runner), *settings)
    np.testing.assert_allclose(other.encode(SAMPLES), encoder.encode(SAMPLES), atol=1e-6)
    ids = np.array(encoder.tokenizer(TEXTS[0])["input_ids"])
    outputs = encoder.runner.run(ids, np.array([0, len(ids)]))
    np.testing.assert_allclose(outputs["sentence_embedding"], encoder.encode([ids]), atol=1e-6)


@pytest.mark.parametrize("dimensions", [1, 7, 16])
def test_dimensions_are_those_of_sentence_transformers(
    peer: SentenceTransformer, encoder: Encoder, dimensions: int
) -> None:
    expected = peer.encode(SAMPLES, truncate_dim=dimensions, normalize_embeddings=True)
    np.testing.assert_allclose(encoder.encode(SAMPLES, dimensions=dimensions), expected, atol=1e-5)
    expected = peer.encode(SAMPLES, truncate_dim=dimensions)
    np.testing.assert_allclose(encoder.encode(SAMPLES, dimensions=dimensions, normalize=False), expected, atol=1e-5)


@pytest.mark.parametrize("pooling", [None, "mean", "cls"])
def test_vectors_of_other_models_are_pooled_hidden_states_of_transformers(masked_lm: Path, pooling: Any) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(masked_lm)
    model = transformers.ModernBertModel.from_pretrained(masked_lm).eval()
    texts, expected = SAMPLES[4:] + TEXTS, []
    for text in texts:
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        expected.append(torch.nn.functional.normalize(hidden[0] if pooling == "cls" else hidden.mean(0), dim=0))
    encoder = load_encoder(str(masked_lm), "torch", device="cpu")
    np.testing.assert_allclose(encoder.encode(texts, pooling=pooling), torch.stack(expected), atol=1e-5)


def test_bert_is_encoded_without_padding_effects(bert: Path) -> None:
    encoder = load_encoder(str(bert), "auto", device="cpu")
    assert (encoder.backend, encoder.head.name) == ("torch", "masked language model")
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(encoder.encode(TEXTS), alone, atol=1e-5)


def test_a_vector_depends_neither_on_its_batch_nor_on_the_order(encoder: Encoder) -> None:
    vectors = encoder.encode(SAMPLES)
    order = np.random.default_rng(0).permutation(len(SAMPLES))
    shuffled = encoder.encode([SAMPLES[index] for index in order], tokens_per_batch=50)
    np.testing.assert_allclose(shuffled, vectors[order], atol=1e-6)
    for text, vector in zip(SAMPLES, vectors, strict=True):
        np.testing.assert_allclose(encoder.encode([text])[0], vector, atol=1e-6)


def test_token_ids_are_used_as_they_are(encoder: Encoder) -> None:
    ids = encoder.tokenizer([f"検索: {text}" for text in TEXTS])["input_ids"]
    expected = encoder.encode(TEXTS, "query")
    np.testing.assert_array_equal(encoder.encode(ids), expected)
    mixed = encoder.encode([TEXTS[0], np.array(ids[1]), tuple(ids[2])], "query")
    np.testing.assert_allclose(mixed, expected, atol=1e-6)


def test_no_texts_have_vectors_of_the_same_width(encoder: Encoder) -> None:
    assert encoder.encode([]).shape == (0, 16)
    assert encoder.encode([], dimensions=4).shape == (0, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"text 2 is 'None'; it must be a string"),
        ([], r"text 2 is '\[\]'; it must be a string"),
        ([0.5], r"text 2 is '\[0.5\]'"),
        ([1, 2**40], r"text 2 has token ids outside of 0 to \d+\.$"),
        ([-1], r"text 2 has token ids outside of 0 to"),
        ("\ud800", r"text 2 has"),
        ([5] * 101, r"text 2 has 101 tokens, but the context length is 100. Shorten it\.$"),
    ],
)
def test_unusable_text_is_named(encoder: Encoder, text: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        encoder.encode(["猫", text])


def test_long_texts_are_truncated_and_counted_or_refused(encoder: Encoder, caplog: pytest.LogCaptureFixture) -> None:
    long = TEXTS[0] * 30
    with caplog.at_level(logging.WARNING):
        vectors = encoder.encode([long, "猫", long + "。"])
    assert [record.getMessage() for record in caplog.records] == [
        "2 texts are longer than 100 tokens and were truncated."
    ]
    np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-6)
    with pytest.raises(UsageError, match=r"text 2 has .* Shorten it, or allow truncation"):
        encoder.encode(["猫", long], truncate=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimensions": 17}, "dimensions is 17; the vectors of this model have 16"),
        ({"dimensions": 0}, "dimensions is 0"),
        ({"pooling": "max"}, "pooling is 'max'; choose mean or cls"),
        ({"tokens_per_batch": 0}, "tokens_per_batch is 0"),
    ],
)
def test_unusable_options_are_named(encoder: Encoder, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        encoder.encode(["猫"], **options)


@pytest.mark.parametrize("texts", ["猫", None])
def test_other_than_a_list_is_refused(encoder: Encoder, texts: Any) -> None:
    with pytest.raises(UsageError, match="Give a list of texts"):
        encoder.encode(texts)


def test_texts_may_be_any_iterable(encoder: Encoder) -> None:
    expected = encoder.encode(TEXTS)
    np.testing.assert_array_equal(encoder.encode(iter(TEXTS)), expected)
    np.testing.assert_array_equal(encoder.encode(np.array(TEXTS)), expected)


def test_an_encoder_is_used_by_several_threads(encoder: Encoder) -> None:
    expected = encoder.encode(SAMPLES)
    with ThreadPoolExecutor(4) as executor:
        for vectors in executor.map(lambda _: encoder.encode(SAMPLES, tokens_per_batch=64), range(12)):
            np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_an_iterator_is_read_in_windows(encoder: Encoder) -> None:
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        for read in range(1, 20_001):  # noqa: B007
            yield "猫"

    batches = encoder.encode_batches(texts())
    indices, vectors = next(batches)
    assert len(indices) == len(vectors) > 0
    batches.close()
    assert read <= 10_000


def test_progress_ends_with_all_texts(encoder: Encoder) -> None:
    shares: list[float] = []
    encoder.encode(SAMPLES, tokens_per_batch=64, progress=shares.append)
    assert shares == sorted(shares)
    assert len(shares) > 3
    assert shares[-1] == 1


@pytest.mark.parametrize("padding", [0.0, 1e-4])
def test_batches_hold_every_document_once_within_the_budget(padding: float) -> None:
    lengths = np.random.default_rng(0).integers(1, 300, 500).tolist()
    batches = list(split([*lengths, 9000], 1000, padding))
    assert sorted(index for batch in batches for index in batch) == list(range(501))
    assert all(len(batch) == 1 or sum(lengths[index] for index in batch) <= 1000 for batch in batches)


def test_batches_end_where_padding_costs_more_than_a_batch() -> None:
    config = llm_jp_modernbert.LlmJpModernBertConfig(
        hidden_size=768, intermediate_size=1152, num_hidden_layers=22, global_attn_every_n_layers=3
    )
    # 8 of 22 layers are global: 4 · 8 · 768 operations per score, 22 · (8 · 768² + 6 · 768 · 1152) per token.
    assert padding_cost(config) == pytest.approx(4 * 8 * 768 / (22 * (8 * 768**2 + 6 * 768 * 1152)))
    lengths = [512, 20, 500, 20, 20]
    assert list(split(lengths, 8192)) == [[0, 2, 1, 3, 4]]
    assert list(split(lengths, 8192, padding_cost(config))) == [[0, 2, 1], [3, 4]]


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification", "regression"])
def test_labels_equal_those_of_the_pipeline(tmp_path: Path, problem_type: str) -> None:
    changes = {"id2label": {0: "LABEL_0"}} if problem_type == "regression" else {}
    folder = write_model(tmp_path / "model", SEQUENCE_CLASSIFICATION, problem_type=problem_type, **changes)
    pipeline: Any = transformers.pipeline("text-classification", model=str(folder), device="cpu", top_k=None)
    encoder = load_encoder(str(folder), "torch", device="cpu")
    inputs = [{"text": text, "text_pair": pair} for text, pair in PAIRS]
    for results, expected in (
        (encoder.classify(TEXTS), pipeline(TEXTS)),
        (encoder.classify(PAIRS), [pipeline(pair) for pair in inputs]),
    ):
        for result, labels in zip(results, expected, strict=True):
            assert result.scores == pytest.approx({entry["label"]: entry["score"] for entry in labels}, rel=1e-4)
            assert (result.label, result.score) == (labels[0]["label"], pytest.approx(labels[0]["score"], rel=1e-4))


@pytest.mark.parametrize("kind", ["bert", "llm-jp-modernbert"])
def test_a_document_may_have_as_many_tokens_as_labels(kind: str) -> None:
    settings = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config: Any = transformers.AutoConfig.for_model(kind, num_hidden_layers=1, num_labels=3, **settings)
    if kind == "bert":
        model: Any = transformers.BertForSequenceClassification(config).eval()
    else:
        model = llm_jp_modernbert.LlmJpModernBertForSequenceClassification(config).eval()
    rows = np.array([[5, 6, 7], [8, 9, 10]])
    with torch.no_grad():
        expected = model(torch.from_numpy(rows)).logits
    for count in (1, 2):
        logits = packed_forward(model, rows[:count].reshape(-1), np.arange(0, 3 * count + 1, 3))["logits"]
        torch.testing.assert_close(logits, expected[:count], rtol=1e-4, atol=1e-5)


def test_masks_of_short_texts_are_not_padded_to_long_ones(masked_lm: Path) -> None:
    encoder = load_encoder(str(masked_lm), "torch", device="cpu")
    texts = ["[MASK]。", "[MASK]" + "猫" * 60, *("猫は[MASK]。" for _ in range(30))]
    sizes: list[int] = []

    class Recorder:
        def run(self, ids: np.ndarray, boundaries: np.ndarray, positions: Any = None) -> dict[str, np.ndarray]:
            sizes.append((len(boundaries) - 1) * int(np.diff(boundaries).max()) ** 2)
            return encoder.runner.run(ids, boundaries, positions)

    recorded = Encoder(Recorder(), encoder.tokenizer, encoder.config, encoder.head, "other", "float32")
    results = recorded.fill_mask(texts)
    assert max(sizes) < 2 * 190**2
    for result, text in zip(results, texts, strict=True):
        expected = encoder.fill_mask([text])[0]
        assert result.text == expected.text
        assert result.masks[0][0].probability == pytest.approx(expected.masks[0][0].probability, rel=1e-3)


def test_unknown_backends_and_types_and_unwritable_caches_are_named(
    masked_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="backend is 'tensorrt'; choose one of auto, torch"):
        load_encoder(str(masked_lm), "tensorrt")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="dtype is 'fp16'; choose one of auto, float32"):
        load_encoder(str(masked_lm), dtype="fp16")  # type: ignore[arg-type]
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLM_JP_MODERNBERT_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="Set LLM_JP_MODERNBERT_CACHE to a writable directory"):
        load_encoder(str(masked_lm), "onnx", device="cpu")


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_masks_equal_those_of_the_pipeline(masked_lm: Path, backend: Any) -> None:
    pipeline: Any = transformers.pipeline("fill-mask", model=str(masked_lm), device="cpu", top_k=3)
    texts = ["今日のご飯は[MASK]である。", "名前はまだ[MASK]。"]
    expected = pipeline([text.replace("[MASK]", pipeline.tokenizer.mask_token) for text in texts])
    encoder = load_encoder(str(masked_lm), backend, device="cpu")
    for result, candidates in zip(encoder.fill_mask(texts, 3), expected, strict=True):
        assert [candidate.token_id for candidate in result.masks[0]] == [entry["token"] for entry in candidates]
        assert [candidate.probability for candidate in result.masks[0]] == pytest.approx(
            [entry["score"] for entry in candidates], rel=1e-3
        )


def test_other_heads_are_refused(tmp_path: Path, encoder: Encoder) -> None:
    tagger = load_encoder(str(write_model(tmp_path / "tagger", TOKEN_CLASSIFICATION)), "torch", device="cpu")
    with pytest.raises(UsageError, match="classify needs a sequence classification model, but this is a token"):
        tagger.classify(TEXTS)
    with pytest.raises(UsageError, match="encode needs an encoder or a masked language model, but this is a token"):
        tagger.encode(TEXTS)
    with pytest.raises(UsageError, match="fill_mask needs a masked language model, but this is an encoder"):
        encoder.fill_mask(["[MASK]"])
    assert tagger.head.name == "token classification model"
    assert len(LABELS) == tagger.config.num_labels


def test_models_with_other_modules_are_refused(tmp_path: Path) -> None:
    folder = write_sentence_model(tmp_path / "sparse", "SentenceTransformer")
    modules = folder / "modules.json"
    modules.write_text(modules.read_text("utf-8").replace("Dense", "WordWeights"), "utf-8")
    with pytest.raises(UsageError, match="it has Transformer, Pooling, WordWeights, Normalize"):
        load_encoder(str(folder))
    sparse = write_sentence_model(tmp_path / "splade", "SparseEncoder")
    with pytest.raises(UsageError, match="is a SparseEncoder, which has no vector per text"):
        load_encoder(str(sparse))


def test_auto_is_the_first_installed_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"openvino", "onnxruntime"}
    monkeypatch.setattr("llm_jp_modernbert.inference.encoder.choice.find_spec", lambda name: name in installed or None)
    assert choose_backend("auto", "float32", "cpu", "modernbert") == "openvino"
    assert choose_backend("auto", "float32", "cuda", "modernbert") == "torch"
    assert choose_backend("auto", "float32", "cpu", "bert") == "torch"
    assert choose_backend("auto", "float16", "cpu", "modernbert") == "torch"
    installed.remove("openvino")
    assert choose_backend("auto", "float32", "cpu", "llm-jp-modernbert") == "onnx"
    with pytest.raises(UsageError, match=r"pip install 'llm-jp-modernbert\[openvino\]'"):
        choose_backend("openvino", "float32", "cpu", "modernbert")
    for options in (("bfloat16", "cpu", "modernbert"), ("float32", "cuda", "modernbert"), ("float32", "cpu", "bert")):
        with pytest.raises(UsageError, match="torch"):
            choose_backend("onnx", *options)
    installed.clear()
    assert choose_backend("auto", "float32", "cpu", "modernbert") == "torch"


@pytest.mark.parametrize(
    ("saved", "capabilities", "device", "expected"),
    [
        (torch.bfloat16, {}, "cpu", "float32"),
        (torch.bfloat16, {"amx_bf16": True}, "cpu", "bfloat16"),
        (torch.float32, {"amx_bf16": True}, "cpu", "float32"),
        (torch.float16, {}, "cuda", "float16"),
        (None, {}, "cpu", "float32"),
    ],
)
def test_auto_dtype(
    monkeypatch: pytest.MonkeyPatch, saved: Any, capabilities: dict[str, bool], device: str, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert choose_dtype("auto", saved, device) == expected
    assert choose_dtype("float16", saved, device) == "float16"


@pytest.mark.parametrize("kind", ["mps", "xpu", "cuda", None])
def test_default_device_is_the_accelerator(monkeypatch: pytest.MonkeyPatch, kind: str | None) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: kind is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None if kind is None else torch.device(kind))
    assert usable_device(None) == (kind or "cpu")


def test_public_names() -> None:
    assert llm_jp_modernbert.load_encoder is load_encoder
    assert llm_jp_modernbert.Encoder is Encoder

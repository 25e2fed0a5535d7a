"""Tasks without fine-tuning, against plain transformers and sentence-transformers."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_data import PLACES, SUBJECTS, make_task, write_lines
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertTokenizerFast, ModernBertForMaskedLM

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.evaluation.data.options import Options
from llm_jp_modernbert.evaluation.data.readers import SearchData
from llm_jp_modernbert.evaluation.encoders.embeddings import Embedder
from llm_jp_modernbert.evaluation.encoders.models import EvaluatedModel, ModelName
from llm_jp_modernbert.evaluation.metrics.uniformity.uniformity import mean_closeness, uniformity
from llm_jp_modernbert.evaluation.tasks.alignment_uniformity import redrawn
from llm_jp_modernbert.evaluation.tasks.fill_mask import PROMPTS, FillMask, as_published, read_prompts
from llm_jp_modernbert.evaluation.tasks.pseudo_perplexity import PseudoPerplexity, Target, cross_entropies

TEXTS = ["猫が駅に行く。", "明日の朝は早く起きて、駅まで歩いて行きます。", "名前はまだ無い。" * 3, "海"]


def test_cross_entropies_equal_transformers_row_by_row(modernbert: Path) -> None:
    plain = ModernBertForMaskedLM.from_pretrained(modernbert).eval()
    tokenizer = AutoTokenizer.from_pretrained(modernbert)
    rows = [tokenizer(text)["input_ids"] for text in TEXTS]
    targets = [Target(row, place) for row in rows for place in range(1, len(row) - 1)]
    model = EvaluatedModel(ModelName(str(modernbert), device="cpu"))
    losses = cross_entropies(model.masked_lm, model.tokenizer, targets, tokens_per_batch=100)
    for target, loss in zip(targets, losses, strict=True):
        row = list(target.row)
        right, row[target.position] = row[target.position], tokenizer.mask_token_id
        with torch.no_grad():
            logits = plain(torch.tensor([row])).logits[0, target.position]
        assert loss == pytest.approx(-logits.log_softmax(-1)[right].item(), rel=1e-6)


def test_all_contexts_share_their_targets(modernbert: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"text": "".join(TEXTS) * 5}, ensure_ascii=False) + "\n", encoding="utf-8")
    task = PseudoPerplexity(Options(texts=(texts,)), positions=9, documents=1, contexts=(16, 32, 64, 128))
    model = EvaluatedModel(ModelName(str(modernbert), device="cpu"))
    outcome = task.measure(model, task.load(), lambda share: None)
    # The model's maximum is 64 tokens: longer contexts are skipped.
    assert [item["context"] for item in outcome.instances] == [16, 32, 64]
    assert len({tuple(item["characters"]) for item in outcome.instances}) == 1
    whole = {row.subset: row.value for row in outcome.measurements if row.metric == "pseudo_perplexity"}
    for item in outcome.instances:
        mean = sum(item["cross_entropies"]) / 9
        assert whole[f"context-{item['context']}"] == pytest.approx(math.exp(mean), rel=1e-4)
    assert whole[""] == whole["context-64"]


def test_pseudo_perplexity_by_context_equals_loop(modernbert: Path, tmp_path: Path) -> None:
    # All characters are in the vocabulary, so each token's length is its number of characters.
    documents = ["猫が駅に行く。公園に向かう。" * 6, "先生が行く。学生が 駅に向かう。図に。" * 5]
    texts = write_lines(tmp_path / "texts.jsonl", [{"text": text} for text in documents])
    contexts = (16, 32, 64)
    # All positions of the smallest context are targets.
    task = PseudoPerplexity(Options(texts=(texts,)), positions=14, documents=2, contexts=contexts)
    model = EvaluatedModel(ModelName(str(modernbert), device="cpu"))
    outcome = task.measure(model, task.load(), lambda share: None)
    figures = {(row.metric, row.subset): row for row in outcome.measurements}
    plain = ModernBertForMaskedLM.from_pretrained(modernbert).eval()
    tokenizer = AutoTokenizer.from_pretrained(modernbert)
    for context in contexts:
        losses, characters = [], 0
        for text in documents:
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            middle = len(ids) // 2
            begin = middle - (context - 2) // 2
            for place in range(middle - 7, middle + 7):
                row = [tokenizer.cls_token_id, *ids[begin : begin + context - 2], tokenizer.sep_token_id]
                row[place - begin + 1] = tokenizer.mask_token_id
                with torch.no_grad():
                    logits = plain(torch.tensor([row])).logits[0, place - begin + 1]
                losses.append(-logits.log_softmax(-1)[ids[place]].item())
                characters += len(tokenizer.convert_ids_to_tokens(ids[place]))
        subset = f"context-{context}"
        per_token = figures["pseudo_perplexity", subset].value
        assert per_token == pytest.approx(math.exp(sum(losses) / 28), rel=1e-6)
        per_character = figures["pseudo_perplexity_per_character", subset]
        assert per_character.value == pytest.approx(math.exp(sum(losses) / characters), rel=1e-6)
        assert (per_character.low or 0) <= (per_character.value or 0) <= (per_character.high or 0)


def test_pseudo_perplexity_by_document_equals_loop(modernbert: Path, tmp_path: Path) -> None:
    documents = ["猫が駅に行く。", "海", "明日の朝。", "先生が公園に向かう。", "図", "名前はまだ無い。" * 50]
    texts = write_lines(tmp_path / "texts.jsonl", [{"text": text} for text in documents])
    task = make_task("pseudo-perplexity", Options(protocol="paper", texts=(texts,)))
    model = EvaluatedModel(ModelName(str(modernbert), device="cpu"))
    outcome = task.measure(model, task.load(), lambda share: None)
    # The last document exceeds the model's maximum length.
    assert {item["document"] for item in outcome.instances} == set(range(5))
    plain = ModernBertForMaskedLM.from_pretrained(modernbert).eval()
    tokenizer = AutoTokenizer.from_pretrained(modernbert)
    drawn = np.random.default_rng([0, 1])
    wanted = []
    for item in outcome.instances:
        ids = tokenizer(documents[item["document"]])["input_ids"]
        product_of_probabilities = 1.0
        for place in drawn.integers(1, len(ids) - 1, 100):
            row = torch.tensor([ids])
            row[0, place] = tokenizer.mask_token_id
            with torch.no_grad():
                probabilities = plain(row).logits[0, place].softmax(-1)
            product_of_probabilities *= probabilities[ids[place]].item() ** (1 / 100)
        wanted.append(1 / product_of_probabilities)
        assert item["pseudo_perplexity"] == pytest.approx(wanted[-1], rel=1e-6)
    of_bin, of_all = outcome.measurements
    assert (of_bin.subset, of_all.subset, of_bin.examples) == ("length-0-1024", "", 5)
    assert of_bin.value == of_all.value == pytest.approx(sorted(wanted)[2], rel=1e-6)


def test_embeddings_equal_sentence_transformers(any_model: EvaluatedModel) -> None:
    plain = SentenceTransformer(any_model.name, device="cpu").encode(TEXTS, normalize_embeddings=True)
    assert np.abs(Embedder(any_model).encode(TEXTS) - plain).max() < 1e-6


@pytest.fixture(scope="module", params=["prompt pooled", "prompt not pooled", "default prompt", "router", "truncated"])
def with_settings(request: pytest.FixtureRequest, modernbert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved sentence-transformers model that treats questions, passages and other texts differently."""
    folder = tmp_path_factory.mktemp("embedders") / "model"
    parts: list[Any] = [modules.Transformer(str(modernbert), max_seq_length=64)]
    parts.append(modules.Pooling(32, "mean", include_prompt=request.param != "prompt not pooled"))
    settings: dict[str, Any] = {"prompts": {"query": "駅の前で", "passage": "海の"}}
    if request.param == "default prompt":
        settings = {"prompts": {"theme": "先生が"}, "default_prompt_name": "theme"}
    elif request.param == "truncated":
        settings["truncate_dim"] = 8
    elif request.param == "router":
        dense = [modules.Dense(32, 32) for _ in range(2)]
        parts.append(modules.Router.for_query_document(dense[:1], dense[1:], default_route="document"))
    parts.append(modules.Normalize())
    SentenceTransformer(modules=parts, device="cpu", **settings).save(str(folder))
    return folder


def test_embeddings_equal_every_encoder_of_sentence_transformers(with_settings: Path) -> None:
    model = Embedder(EvaluatedModel(ModelName(str(with_settings), device="cpu", tokens_per_batch=40)))
    plain = SentenceTransformer(str(with_settings), device="cpu")
    unlike = 0
    for role, encode in ((None, plain.encode), ("query", plain.encode_query), ("document", plain.encode_document)):
        wanted = encode(TEXTS, normalize_embeddings=True)
        assert np.abs(model.encode(TEXTS, role) - wanted).max() < 1e-5
        unlike += np.abs(wanted - plain.encode(TEXTS, prompt="", normalize_embeddings=True)).max() > 1e-3
    assert unlike


def test_texts_with_nul_have_their_own_embeddings(modernbert: Path) -> None:
    embedder = Embedder(EvaluatedModel(ModelName(str(modernbert), device="cpu")))
    assert len(embedder.encode(["猫", "犬\0駅"])) == 2
    assert len(embedder.encode(["猫", "犬", "駅"])) == 3


@pytest.mark.parametrize(("pooling", "layers"), [("cls", 0), ("last-2-layers", 2)])
def test_poolings_equal_their_definition(modernbert: Path, pooling: str, layers: int) -> None:
    plain = ModernBertForMaskedLM.from_pretrained(modernbert).eval().model
    ids = AutoTokenizer.from_pretrained(modernbert)(TEXTS[1], return_tensors="pt")
    with torch.no_grad():
        states = plain(**ids, output_hidden_states=True)
    wanted = (
        torch.stack(states.hidden_states[-layers:]).mean(0)[0].mean(0) if layers else states.last_hidden_state[0, 0]
    )
    wanted = wanted / wanted.norm()
    vector = Embedder(EvaluatedModel(ModelName(str(modernbert), device="cpu")), pooling).encode(TEXTS)[1]
    assert np.abs(vector - wanted.numpy()).max() < 1e-6


def test_fill_mask_ranks_equal_transformers(any_model: EvaluatedModel, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(any_model.name)
    surfaces = [tokenizer.decode([token]).strip() for token in range(len(tokenizer))]
    answer = next(surface for surface in surfaces if len(surface) == 1 and "ぁ" <= surface <= "龠")
    prompts = tmp_path / "prompts.jsonl"
    rows = [
        {"text": "吾輩は[MASK]である。", "answers": [answer]},
        {"text": "[MASK]の朝は早い。", "answers": ["駅", "明日"]},
    ]
    prompts.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    task = FillMask(Options(prompts=prompts))
    outcome = task.measure(any_model, task.load(), lambda share: None)
    plain = AutoModelForMaskedLM.from_pretrained(any_model.name).eval()
    ids = any_model.tokenizer(rows[0]["text"].replace("[MASK]", tokenizer.mask_token), return_tensors="pt")[
        "input_ids"
    ]
    place = ids[0].tolist().index(tokenizer.mask_token_id)
    with torch.no_grad():
        logits = plain(ids).logits[0, place]
    right = [token for token, surface in enumerate(surfaces) if surface == answer]
    assert outcome.instances[0]["rank"] == min(1 + int((logits > logits[token]).sum()) for token in right)
    reciprocal = [1 / item["rank"] for item in outcome.instances]
    mrr = next(row.value for row in outcome.measurements if row.metric == "mrr" and not row.subset)
    assert mrr == pytest.approx(sum(reciprocal) / 2)


def test_fill_mask_ranks_of_multi_token_answers_equal_loop(any_model: EvaluatedModel, tmp_path: Path) -> None:
    tokenizer = any_model.tokenizer
    text, answers = "明日は[MASK]まで行く。", ["病院", "図書館の庭"]
    prompts = write_lines(tmp_path / "prompts.jsonl", [{"text": text, "answers": answers}])
    task = FillMask(Options(prompts=prompts))
    (instance,) = task.measure(any_model, task.load(), lambda share: None).instances
    plain = AutoModelForMaskedLM.from_pretrained(any_model.name).eval()
    ranks = []
    for answer in answers:
        pieces = tokenizer(tokenizer.mask_token + answer, add_special_tokens=False)["input_ids"]
        pieces = pieces[pieces.index(tokenizer.mask_token_id) + 1 :]
        assert len(pieces) > 1
        ids = tokenizer(text.replace("[MASK]", tokenizer.mask_token * len(pieces)), return_tensors="pt")["input_ids"]
        worst = 0
        for piece in pieces:
            place = ids[0].tolist().index(tokenizer.mask_token_id)
            with torch.no_grad():
                logits = plain(ids).logits[0, place]
            worst = max(worst, 1 + sum(other > logits[piece] for other in logits).item())
            ids[0, place] = piece
        ranks.append(worst)
    assert instance["rank"] == min(ranks)


def test_published_tokenizer_adds_a_space_after_the_mask(modernbert: Path, tmp_path: Path) -> None:
    model = EvaluatedModel(ModelName(str(modernbert), device="cpu"))
    text, answer = "吾輩は[MASK]である。", "猫"
    before, after = (model.tokenizer(part, add_special_tokens=False).input_ids for part in text.split("[MASK]"))
    # Each segment is tokenized like a separate text.
    assert after[0] == model.tokenizer.convert_tokens_to_ids("▁")
    written = text.replace("[MASK]", model.tokenizer.mask_token)
    ids = [model.tokenizer.cls_token_id, *before, model.tokenizer.mask_token_id, *after, model.tokenizer.sep_token_id]
    assert as_published(model.tokenizer)(written).input_ids == ids
    assert model.tokenizer(written).input_ids == [token for place, token in enumerate(ids) if place != len(before) + 2]

    # A token of the vocabulary equals the answer without the ▁.
    prompts = write_lines(tmp_path / "prompts.jsonl", [{"text": text, "answers": [answer]}])
    task = make_task("fill-mask-published-tokenizer", Options(prompts=prompts))
    outcome = task.measure(model, task.load(), lambda share: None)
    plain = AutoModelForMaskedLM.from_pretrained(modernbert).eval()
    with torch.no_grad():
        logits = plain(torch.tensor([ids])).logits[0, len(before) + 1]
    surfaces = [model.tokenizer.decode([token]).strip() for token in range(len(model.tokenizer))]
    right = [token for token, surface in enumerate(surfaces) if surface == answer]
    assert outcome.instances[0]["rank"] == min(1 + int((logits > logits[token]).sum()) for token in right)


def test_published_tokenizer_task_rejects_other_tokenizers(modernbert: Path, tmp_path: Path) -> None:
    AutoModelForMaskedLM.from_pretrained(modernbert).save_pretrained(tmp_path)
    vocabulary = {token: number for number, token in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "猫"))}
    BertTokenizerFast(vocab=vocabulary).save_pretrained(tmp_path)
    task = make_task("fill-mask-published-tokenizer", Options(limit=1))
    with pytest.raises(UsageError, match=r"is not llm-jp's\. Use the task fill-mask"):
        task.measure(EvaluatedModel(ModelName(str(tmp_path), device="cpu")), task.load(), lambda share: None)


def test_alignment_uniformity_and_similarity_equal_loops(modernbert: Path, small_data: Path) -> None:
    model, plain = EvaluatedModel(ModelName(str(modernbert), device="cpu")), SentenceTransformer(str(modernbert))
    options = Options(data_dir=small_data)
    task = make_task("alignment-uniformity", options)
    data = task.load()
    vectors = {text: plain.encode(text, normalize_embeddings=True) for pair in data.examples for text in pair}
    outcome = task.measure(model, data, lambda share: None)
    figures = {row.metric: row.value for row in outcome.measurements}
    near = [float(np.square(vectors[one] - vectors[other]).sum()) for one, other in data.examples]
    assert figures["alignment"] == pytest.approx(sum(near) / len(near), abs=1e-6)
    spread = [math.exp(-2 * float(np.square(a - b).sum())) for a, b in combinations(vectors.values(), 2)]
    assert figures["uniformity"] == pytest.approx(math.log(sum(spread) / len(spread)), abs=1e-6)

    closeness = [item["closeness"] for item in outcome.instances if "closeness" in item]
    assert math.log(sum(closeness) / len(vectors)) == pytest.approx(figures["uniformity"], abs=1e-6)
    assert all((row.low or 0) < (row.value or 0) < (row.high or 0) for row in outcome.measurements)

    task = make_task("similarity", options)
    outcome = task.measure(model, task.load(), lambda share: None)
    by_kind: dict[str, list[float]] = {"positive": [], "random": []}
    for item in outcome.instances:
        by_kind[item["kind"]].append(item["squared_distance"])
    assert by_kind["positive"] == pytest.approx(near, abs=1e-6)
    wins = [(a < b) + (a == b) / 2 for a, b in product(by_kind["positive"], by_kind["random"])]
    values = {(row.metric, row.subset): row.value for row in outcome.measurements}
    assert values["auc", ""] == pytest.approx(sum(wins) / len(wins), abs=1e-9)
    for kind, distances in by_kind.items():
        assert values["squared_distance", kind] == pytest.approx(sum(distances) / len(distances), abs=1e-9)


def test_uniformity_interval_matches_resampled_texts() -> None:
    drawn = np.random.default_rng(0)

    def texts() -> np.ndarray:
        vectors = drawn.normal(size=(300, 8)) + 1.2
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    of_new_texts = np.std([uniformity(texts()) for _ in range(200)])
    closeness = mean_closeness(texts())
    redraws = [redrawn(closeness.mean(), drawn.choice(closeness, 300).mean()) for _ in range(1000)]
    assert np.std(redraws) == pytest.approx(of_new_texts, rel=0.15)


def test_packaged_prompts_are_complete() -> None:
    prompts = read_prompts(PROMPTS)
    sizes = Counter(prompt.category for prompt in prompts)
    assert len(prompts) >= 300
    assert min(sizes.values()) >= 15
    assert len({prompt.text for prompt in prompts}) == len(prompts)
    assert all(prompt.answers for prompt in prompts)
    far = [prompt for prompt in prompts if prompt.category == "long_context"]
    assert len(far) >= 20
    assert all(prompt.text.index("[MASK]") - prompt.text.index(prompt.answers[0]) > 1000 for prompt in far)


def test_model_without_mask_token_is_reported(modernbert: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(modernbert)
    AutoModelForMaskedLM.from_pretrained(modernbert).save_pretrained(tmp_path)
    tokenizer.mask_token = None
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config.pop("mask_token", None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    model = EvaluatedModel(ModelName(str(tmp_path), device="cpu"))
    if model.tokenizer.mask_token_id is None:
        with pytest.raises(UsageError, match="no mask token"):
            _ = model.masked_lm


def _with_embeddings(model: Path, folder: Path, row: torch.Tensor) -> EvaluatedModel:
    """A copy of a model whose tokens all have the same embedding."""
    weights = Path(shutil.copytree(model, folder)) / "model.safetensors"
    tensors = load_file(weights)
    for name in tensors:
        if name.endswith("tok_embeddings.weight"):
            tensors[name] = row.repeat(len(tensors[name]), 1)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("decoder.weight")}
    save_file(tensors, weights, {"format": "pt"})
    return EvaluatedModel(ModelName(str(folder), device="cpu"))


def _write_retrieval_data(folder: Path) -> None:
    """MIRACL and a folder in BEIR's layout, with 40 passages each; the first ones are relevant."""
    passages = [f"{one}が{place}に行く。" for one, place in product(SUBJECTS, PLACES)][:40]
    rows = [{"docid": f"{number}#0", "title": "題", "text": text} for number, text in enumerate(passages)]
    write_lines(folder / "miracl-corpus-v1.0-ja/docs-0.jsonl", rows)
    for split in ("dev", "train"):
        topics = "".join(f"{number}\t{passages[number]}\n" for number in range(12))
        (folder / f"topics.miracl-v1.0-ja-{split}.tsv").write_text(topics, encoding="utf-8")
        judged = (f"{number}\tQ0\t{number + other}#0\t1\n" for number in range(12) for other in (0, 1))
        (folder / f"qrels.miracl-v1.0-ja-{split}.tsv").write_text("".join(judged), encoding="utf-8")
    write_lines(folder / "beir/corpus.jsonl", [{"_id": row["docid"], "text": row["text"]} for row in rows])
    write_lines(folder / "beir/queries.jsonl", [{"_id": number, "text": passages[number]} for number in range(12)])
    (folder / "beir/qrels").mkdir()
    (folder / "beir/qrels/test.tsv").write_text("".join(f"{number}\t{number}#0\t1\n" for number in range(12)))


@pytest.fixture(scope="module")
def every_layout(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small data with all retrieval datasets."""
    folder = tmp_path_factory.mktemp("layouts") / "data"
    shutil.copytree(small_data, folder)
    _write_retrieval_data(folder)
    return folder


@pytest.mark.parametrize("limit", [None, 5])
@pytest.mark.parametrize("source", ["miracl", "jsquad", "jaquad", "beir", "pairs"])
def test_collapsed_encoder_retrieves_by_chance(
    source: str, limit: int | None, modernbert: Path, every_layout: Path, tmp_path: Path
) -> None:
    model = _with_embeddings(modernbert, tmp_path / "collapsed", torch.randn(1, 32))
    protocol = "paper" if source == "pairs" else "default"
    options = Options(protocol=protocol, data_dir=every_layout, limit=limit)
    task = make_task("retrieval" if source == "pairs" else f"retrieval:{source}", options)
    data = task.load()
    assert isinstance(data, SearchData)
    values = {row.metric: row.value for row in task.measure(model, data, lambda share: None).measurements}
    passages = len(data.search.corpus)
    assert values["recall@10"] == pytest.approx(min(1, 10 / passages), abs=1e-9)
    if source not in ("miracl", "pairs"):
        expected = sum(1 / rank for rank in range(1, min(10, passages) + 1)) / passages
        assert values["mrr@10"] == pytest.approx(expected, abs=1e-9)


def test_collapsed_model_has_chance_similarity_and_no_right_answers(
    modernbert: Path, small_data: Path, tmp_path: Path
) -> None:
    model = _with_embeddings(modernbert, tmp_path / "collapsed", torch.randn(1, 32))
    values = {}
    for name in ("similarity", "alignment-uniformity", "fill-mask"):
        task = make_task(name, Options(data_dir=small_data, limit=10 if name == "fill-mask" else None))
        values |= {row.metric: row.value for row in task.measure(model, task.load(), lambda share: None).measurements}
    assert values["auc"] == 0.5
    assert values["uniformity"] == pytest.approx(0, abs=1e-6)
    assert values["top1_accuracy"] == values["top5_accuracy"] == 0


@pytest.mark.parametrize(
    ("task", "value"),
    [
        *((f"retrieval:{source}", math.nan) for source in ("miracl", "jsquad", "jaquad", "beir")),
        *(("retrieval:jsquad", value) for value in (math.inf, -math.inf)),
        ("similarity", math.nan),
        ("alignment-uniformity", math.inf),
    ],
)
def test_embeddings_that_are_not_finite_are_reported(
    task: str, value: float, modernbert: Path, every_layout: Path, tmp_path: Path
) -> None:
    model = _with_embeddings(modernbert, tmp_path / "broken", torch.full((1, 32), value))
    chosen = make_task(task, Options(data_dir=every_layout))
    with pytest.raises(UsageError, match="not finite"):
        chosen.measure(model, chosen.load(), lambda share: None)

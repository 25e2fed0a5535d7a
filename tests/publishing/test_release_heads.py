"""Models with any head are released as plain transformers loads them, with their record of fine-tuning."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from checkpoints import LABELS, TEXTS, write_model
from huggingface_hub import HfApi, ModelCard
from loopback_hub import LoopbackHub
from releases import NAME, QUICK
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.results import Measurement, Results, Run
from llm_jp_modernbert.evaluation.encoders.models import EvaluatedModel, ModelName
from llm_jp_modernbert.inference.graphs import export
from llm_jp_modernbert.inference.graphs.export import graph_folder
from llm_jp_modernbert.inference.heads import (
    ENCODER,
    HEADS,
    MASKED_LM,
    MULTIPLE_CHOICE,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    Head,
)
from llm_jp_modernbert.publishing import release as module
from llm_jp_modernbert.publishing import staging
from llm_jp_modernbert.publishing.check import Checked
from llm_jp_modernbert.publishing.options import ReleaseOptions
from llm_jp_modernbert.publishing.pull import describe, pull
from llm_jp_modernbert.publishing.release import release

pytestmark = pytest.mark.usefixtures("warm_checks")

BASE = "org/base"
# Part of the output of the card's example, by head.
OUTPUTS = {
    SEQUENCE_CLASSIFICATION: LABELS[0],
    TOKEN_CLASSIFICATION: LABELS[1],
    QUESTION_ANSWERING: "休館日は何曜日？",
    MULTIPLE_CHOICE: "傘",
    ENCODER: "torch.Size",
}


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the check in a separate process, which is slow."""
    monkeypatch.setattr(module, "check", lambda *arguments: Checked())


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return write_model(tmp_path / "classifier", SEQUENCE_CLASSIFICATION)


def outputs(folder: Path, head: Head) -> list[torch.Tensor]:
    """Outputs of plain transformers for a pair of texts, as two choices for multiple choice."""
    model = getattr(transformers, head.auto_class).from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer([TEXTS[0]] * 2, TEXTS[1:], return_tensors="pt", padding=True)
    inputs = {name: inputs[name][None] if head is MULTIPLE_CHOICE else inputs[name][:1] for name in inputs}
    with torch.no_grad():
        output = model(**inputs)
    assert "LlmJp" not in type(model).__name__
    return [output[field] for field in head.outputs]


@pytest.mark.parametrize(("head", "printed"), OUTPUTS.items(), ids=[head.suffix for head in OUTPUTS])
def test_release_equals_its_source_and_shows_real_output(head: Head, printed: str, tmp_path: Path) -> None:
    source, staged = write_model(tmp_path / "source", head, "native"), tmp_path / "staged"
    plain = write_model(tmp_path / "plain", head)
    released = release(ReleaseOptions(source, NAME, dry_run=staged), QUICK)
    for ours, theirs in zip(outputs(staged, head), outputs(plain, head), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    card = ModelCard((staged / "README.md").read_text(encoding="utf-8"))
    assert card.data.pipeline_tag == head.pipeline_tag
    (output,) = released.checked.outputs.values()
    assert printed in output
    assert output.strip() in card.text
    assert str(tmp_path) not in card.text
    if head is SEQUENCE_CLASSIFICATION:
        # text-embeddings-inference reads it.
        assert json.loads((staged / "config.json").read_text())["num_labels"] == len(LABELS)


def test_changed_head_is_detected(classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damage_weights(license: str, source: Path, folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        weights["classifier.bias"] += 0.5
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    monkeypatch.setattr(staging, "stage_license", damage_weights)
    with pytest.raises(UsageError, match=r"logits of row 0 are up to 0\.5 off the source's"):
        release(ReleaseOptions(classifier, NAME, dry_run=tmp_path / "staged"), QUICK)


def test_native_release_runs_its_example_with_its_own_code(classifier: Path, tmp_path: Path) -> None:
    released = release(ReleaseOptions(classifier, NAME, format="native", dry_run=tmp_path / "staged"), QUICK)
    assert "modeling_llm_jp_modernbert.py" in released.files
    assert LABELS[0] in released.checked.outputs["Classification"]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("head", HEADS, ids=[head.suffix for head in HEADS])
def test_checkpoint_without_the_weights_of_its_head_is_refused(head: Head, tmp_path: Path) -> None:
    source = write_model(tmp_path / "source", head)
    weights = load_file(source / "model.safetensors")
    for name in ("decoder.bias", "classifier.weight", "layers.1.attn.Wo.weight"):
        weights.pop(name, None)
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=rf"lacks 1 weights of a {head.name}"):
        release(ReleaseOptions(source, NAME, dry_run=tmp_path / "staged"), QUICK)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["ModernBertForCausalLM"]}, "names no known head"),
        ({"architectures": None}, "names no known head"),
        ({"id2label": {}, "label2id": {}}, "needs at least one label"),
        ({"id2label": {"0": "a"}, "label2id": {"a": 0}}, "cannot be loaded as a model"),
    ],
)
def test_damaged_configuration_is_one_line(
    classifier: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    config = json.loads((classifier / "config.json").read_text())
    (classifier / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(UsageError, match=message) as caught:
        release(ReleaseOptions(classifier, NAME, dry_run=tmp_path / "staged"), QUICK)
    assert str(classifier) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("unchecked")
def test_missing_tokenizer_adapters_and_unsupported_exports_are_reported(classifier: Path, tmp_path: Path) -> None:
    options = ReleaseOptions(classifier, NAME, dry_run=tmp_path / "staged")
    with pytest.raises(UsageError, match="gives no embeddings"):
        release(replace(options, sentence_transformers=True), QUICK)
    adapter = Path(shutil.copytree(classifier, tmp_path / "adapter"))
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match="Merge it into its model"):
        release(replace(options, source=adapter), QUICK)
    (tmp_path / "incomplete" / "unfinished").mkdir(parents=True)
    with pytest.raises(UsageError, match="fine-tuning is not finished"):
        release(replace(options, source=tmp_path / "incomplete"), QUICK)
    for file in classifier.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UsageError, match="no tokenizer found"):
        release(options, QUICK)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("labels", "warns"), [({0: "LABEL_0", 1: "LABEL_1"}, True), ({0: "LABEL_0"}, False)])
def test_labels_without_names_are_warned_about(
    labels: dict[int, str], warns: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_model(tmp_path / "source", SEQUENCE_CLASSIFICATION, id2label=labels)
    release(ReleaseOptions(source, NAME, dry_run=tmp_path / "staged"), QUICK)
    assert ("its labels have no names" in caplog.text) is warns


@pytest.mark.usefixtures("unchecked")
def test_only_masked_language_models_need_a_mask_token(tmp_path: Path) -> None:
    words = Tokenizer(WordLevel({"[UNK]": 0, "[PAD]": 1, "猫": 2}, unk_token="[UNK]"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]")
    options = ReleaseOptions(tmp_path, NAME, dry_run=tmp_path / "staged")
    for head in (SEQUENCE_CLASSIFICATION, MASKED_LM):
        source = write_model(tmp_path / head.suffix, head)
        for file in source.glob("tokenizer*"):
            file.unlink()
        tokenizer.save_pretrained(source)
        options = replace(options, source=source)
        if head is SEQUENCE_CLASSIFICATION:
            release(options, QUICK)
    with pytest.raises(UsageError, match="its tokenizer has no mask token"):
        release(options, QUICK)


@pytest.fixture
def finetuned(classifier: Path) -> Path:
    """A directory as `finetune` leaves it."""
    part = {"name": "reviews.csv", "revision": "sha256:11", "rows": 90, "truncated": 0, "tokens": 900, "longest": 20}
    labels = [{"name": name, "counts": {"train": 30, "validation": 10}, "f1": 0.5} for name in LABELS]
    record: dict[str, Any] = {
        "schema": 1,
        "kind": "classification",
        "multi_label": False,
        "base": BASE,
        "base_revision": "0" * 40,
        "columns": {"text": "sentence", "label": "label"},
        "labels": labels,
        "metric": "macro_f1",
        "parts": {"train": {**part, "name": "org/reviews"}, "validation": part},
        "best_seed": 42,
        "seeds": [{"seed": 42, "epoch": 1.0, "metrics": {"validation": {"macro_f1": 0.5}}}],
        "confusion": [[9, 1, 0], [2, 8, 0], [5, 0, 5]],
        "unanswerable": False,
        "max_length": 128,
        "lora": True,
        "seconds": 3.0,
        "device": "CPU",
        "versions": {"torch": "2.13.0"},
    }
    (classifier / "finetuning.json").write_text(json.dumps(record))
    recipe = {"base": BASE, "train": ["/home/somebody/reviews.csv"], "out": "/scratch/out", "overrides": []}
    (classifier / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run = Run(
        *("finetune-classification", "classifier", "sha256:any", "default", {}, 42, "reviews.csv", "sha256:11"),
        *("validation", 30),
    )
    scores = [Measurement("macro_f1", 0.5, low=0.25, high=0.75, baseline=0.125, scale=100)]
    Results(classifier / "results").write(run, scores, [{"prediction": "秘密の例文"}])
    (classifier / "errors.jsonl").write_text('{"text": "秘密の例文"}\n')
    (classifier / "report.md").write_text("秘密の例文")
    (classifier / "unfinished").mkdir()
    (classifier / "unfinished" / "notes.txt").write_text("秘密の例文")
    (classifier / "assets").mkdir()
    (classifier / "assets" / "confusion.png").write_bytes(b"\x89PNG")
    return classifier


@pytest.mark.usefixtures("unchecked")
def test_release_of_a_finetuned_model_states_its_origin_and_results(finetuned: Path, tmp_path: Path) -> None:
    staged = tmp_path / "staged"
    released = release(ReleaseOptions(finetuned, NAME, dry_run=staged), QUICK)
    assert {"finetuning.json", "recipe.yaml", "assets/confusion.png"} <= set(released.files)
    contents = b"".join((staged / path).read_bytes() for path in released.files)
    for private in ("秘密の例文", "/home/somebody", "/scratch", str(tmp_path)):
        assert private.encode() not in contents
    assert yaml.safe_load((staged / "recipe.yaml").read_text()) == {
        "base": BASE,
        "train": ["reviews.csv"],
        "out": "out",
        "overrides": [],
    }
    data = ModelCard((staged / "README.md").read_text(encoding="utf-8")).data
    assert (data.base_model, data.to_dict()["base_model_relation"], data.datasets) == (
        BASE,
        "finetune",
        ["org/reviews"],
    )
    (score,) = data.eval_results
    assert (score.metric_type, score.metric_value) == ("macro_f1", 0.5)
    rows = list(Results(staged / "results").rows())
    assert [(row.model, row.low, row.high, row.baseline) for row in rows] == [(NAME, 0.25, 0.75, 0.125)]


@pytest.mark.usefixtures("unchecked")
def test_results_of_another_finetuning_are_left_out(finetuned: Path, tmp_path: Path) -> None:
    (path,) = Results(finetuned / "results").files()
    content = json.loads(path.read_text())
    other = {"model": "other", "revision": "sha256:other", "value": 0.625, "low": 0.6, "high": 0.65}
    path.with_name("other.json").write_text(
        json.dumps({**content, "rows": [{**row, **other} for row in content["rows"]]})
    )
    release(ReleaseOptions(finetuned, NAME, dry_run=tmp_path / "staged"), QUICK)
    assert [row.value for row in Results(tmp_path / "staged" / "results").rows()] == [0.5]
    assert "| 50.0 | 25.0 to 75.0 |" in (tmp_path / "staged" / "README.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("unchecked")
def test_results_cannot_be_written_outside_of_the_release(finetuned: Path, tmp_path: Path) -> None:
    (path,) = Results(finetuned / "results").files()
    content = json.loads(path.read_text())
    belonging = {"task": "../../../outside", "revision": EvaluatedModel(ModelName(str(finetuned))).revision}
    path.write_text(json.dumps({**content, "rows": [{**row, **belonging} for row in content["rows"]]}))
    before = {*tmp_path.iterdir()}
    released = release(ReleaseOptions(finetuned, NAME, dry_run=tmp_path / "staged"), QUICK)
    assert {*tmp_path.iterdir()} == {*before, tmp_path / "staged"}
    assert any(name.startswith("results/finetune-classification/") for name in released.files)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("published", "expected"), [(None, None), ("org/pulled", "org/pulled")])
def test_local_base_of_a_finetuned_model_is_named_if_it_is_published(
    finetuned: Path, tmp_path: Path, published: str | None, expected: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    base, staged = write_model(tmp_path / "base", MASKED_LM), tmp_path / "staged"
    (base / "README.md").write_text("---\nlicense: mit\nlanguage: ja\n---\n")
    if published:
        staging.write_manifest(base, f"{published}@main")
    record = json.loads((finetuned / "finetuning.json").read_text())
    (finetuned / "finetuning.json").write_text(json.dumps({**record, "base": "base", "base_revision": "sha256:22"}))
    (finetuned / "recipe.yaml").write_text(yaml.safe_dump({"base": str(base)}))
    release(ReleaseOptions(finetuned, NAME, dry_run=staged), QUICK)
    data = ModelCard((staged / "README.md").read_text(encoding="utf-8")).data
    assert (data.base_model, data.license, data.language) == (expected, "mit", ["ja"])
    assert yaml.safe_load((staged / "recipe.yaml").read_text()) == {"base": expected or "???"}
    assert ("--base-model" in caplog.text) is (expected is None)


@pytest.mark.usefixtures("unchecked")
def test_damaged_record_is_one_line(finetuned: Path, tmp_path: Path) -> None:
    record = json.loads((finetuned / "finetuning.json").read_text())
    for changes in (
        *({"schema": "x"}, {"parts": 3}, {"parts": {}}, {"kind": "other"}, {"labels": [3]}),
        *({"confusion": [[1]]}, {"confusion": [[9, 1, 0], [], [5, 0, 5]]}),
    ):
        (finetuned / "finetuning.json").write_text(json.dumps({**record, **changes}))
        with pytest.raises(UsageError, match=r"classifier/finetuning\.json") as caught:
            release(ReleaseOptions(finetuned, NAME, dry_run=tmp_path / "staged"), QUICK)
        assert "\n" not in str(caught.value)
    (finetuned / "finetuning.json").write_text(json.dumps({**record, "parts": {}}))
    assert "fine-tuned" not in describe(finetuned)


@pytest.mark.usefixtures("unchecked")
def test_finetuned_model_is_described_after_a_pull(
    hub: LoopbackHub, api: HfApi, finetuned: Path, tmp_path: Path
) -> None:
    release(ReleaseOptions(finetuned, NAME), QUICK, api)
    pulled = pull(NAME, out=tmp_path / "out", patience=QUICK, api=api)
    assert (tmp_path / "out" / "assets" / "confusion.png").is_file()
    assert pulled.listed == len(staging.read_manifest(pulled.folder / "release.json")["files"])
    facts = describe(pulled.folder)
    assert facts["fine-tuned"] == f"classification, from {BASE} on 90 examples of org/reviews"
    assert (facts["head"], facts["labels"]) == ("sequence classification model", ", ".join(LABELS))


@pytest.mark.usefixtures("unchecked")
def test_released_graphs_are_used_until_the_weights_change(
    hub: LoopbackHub, api: HfApi, classifier: Path, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    release(ReleaseOptions(classifier, NAME, packed=True), QUICK, api)
    pulled = pull(NAME, out=tmp_path / "out", patience=QUICK, api=api).folder
    assert "packed/openvino/openvino_model.xml" in (pulled / "README.md").read_text(encoding="utf-8")
    for runtime in ("onnx", "openvino"):
        assert graph_folder(str(pulled), runtime) == pulled / "packed" / runtime  # type: ignore[arg-type]
    weights = load_file(pulled / "model.safetensors")
    save_file({name: 2 * tensor for name, tensor in weights.items()}, pulled / "model.safetensors", {"format": "pt"})
    exported: list[Path] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_JP_MODERNBERT_CACHE", str(tmp_path / "cache"))
        # `test_packed_graphs.py` tests this export, which takes seconds.
        patch.setattr(export, "export_graph", lambda model, folder, *settings: exported.append(folder))
        assert graph_folder(str(pulled), "openvino").is_relative_to(tmp_path / "cache")
    assert len(exported) == 1

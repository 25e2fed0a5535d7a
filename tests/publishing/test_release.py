"""Releases are complete, load without this package, and are downloaded unchanged."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from contextlib import suppress
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch
import yaml
from file_limits import file_size_limit
from huggingface_hub import HfApi, ModelCard
from loopback_hub import LoopbackHub
from releases import NAME, QUICK, in_process, write_results, write_source
from safetensors.torch import load_file, save_file
from transformers import ModernBertForMaskedLM
from typer.testing import CliRunner, Result

from llm_jp_modernbert.cli import app
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import lock
from llm_jp_modernbert.core.hub import checkpoints
from llm_jp_modernbert.publishing import release as module
from llm_jp_modernbert.publishing import staging
from llm_jp_modernbert.publishing.check import Checked
from llm_jp_modernbert.publishing.options import ReleaseOptions
from llm_jp_modernbert.publishing.release import release

SUMMARY = "llm-jp-modernbert-nano/training.json"
USE = f"""
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline
model = AutoModelForMaskedLM.from_pretrained("{NAME}", trust_remote_code=CODE)
tokenizer = AutoTokenizer.from_pretrained("{NAME}", trust_remote_code=CODE)
fill = pipeline("fill-mask", model="{NAME}", trust_remote_code=CODE)
candidates = fill("今日のご飯は" + tokenizer.mask_token + "である。")
print(type(model).__name__, [candidate["token"] for candidate in candidates])
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("models") / "nano")


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the check in a separate process, which is slow."""
    monkeypatch.setattr(module, "check", lambda *arguments: Checked())


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})


@pytest.fixture
def options(source: Path) -> ReleaseOptions:
    return ReleaseOptions(source, NAME)


def test_release_is_complete_and_loads_without_this_package(
    hub: LoopbackHub, api: HfApi, options: ReleaseOptions, source: Path, tmp_path: Path
) -> None:
    options = replace(options, private=True, results=write_results(tmp_path / "results", source))
    released = release(options, QUICK, api)
    repository = hub.repositories["model", NAME]
    assert released.is_new
    assert repository.visibilities == ["private"]
    assert [commit.title for commit in repository.history(repository.find("main"))] == ["Release", "initial commit"]
    for name in ("model.safetensors", "tokenizer.json"):
        assert hub.read(NAME, name) == (source / name).read_bytes()
    settings, config = (json.loads(hub.read(NAME, f"{name}config.json")) for name in ("tokenizer_", ""))
    assert settings["model_max_length"] == config["max_position_embeddings"]
    listed = json.loads(hub.read(NAME, "release.json"))["files"]
    for path, entry in listed.items():
        assert entry["sha256"] == hashlib.sha256(hub.read(NAME, path)).hexdigest()
    assert {*listed, "release.json", ".gitattributes"} == set(repository.find("main").files)
    # Only this model's results, under its public name, without examples and local paths.
    contents = b"".join(hub.read(NAME, path) for path in repository.find("main").files if "tokenizer" not in path)
    assert str(tmp_path).encode() not in contents
    assert "秘密の例文".encode() not in contents
    (score,) = ModelCard(hub.read(NAME, "README.md").decode()).data.eval_results[:1]
    assert (score.metric_type, score.metric_value) == ("top1_accuracy", 0.25)
    assert any(path.startswith("assets/fill-mask") for path in listed)
    # A process without this package, online and then offline.
    output = in_process(USE.replace("CODE", "False"), hub, tmp_path / "home")
    assert output.startswith("ModernBertForMaskedLM")
    hub.down()
    offline = "import os; os.environ['HF_HUB_OFFLINE'] = '1'\n"
    assert in_process(offline + USE.replace("CODE", "False"), hub, tmp_path / "home") == output


@pytest.mark.usefixtures("unchecked")
def test_unchanged_release_makes_no_commit(api: HfApi, options: ReleaseOptions) -> None:
    first = release(options, QUICK, api)
    again = release(options, QUICK, api)
    assert (first.is_new, again.is_new) == (True, False)
    assert again.commit == first.commit
    assert len(api.list_repo_commits(NAME)) == 2


@pytest.mark.usefixtures("unchecked")
def test_files_of_the_previous_release_are_deleted(hub: LoopbackHub, api: HfApi, options: ReleaseOptions) -> None:
    release(replace(options, max_shard_size="30KB"), QUICK, api)
    assert "model.safetensors.index.json" in api.list_repo_files(NAME)
    api.upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id=NAME)
    release(replace(options, dtype="bfloat16"), QUICK, api)
    files = api.list_repo_files(NAME)
    assert [path for path in files if "safetensors" in path] == ["model.safetensors"]
    # Files that no release wrote are kept.
    assert hub.read(NAME, "notes.txt") == b"mine"
    assert json.loads(hub.read(NAME, "config.json"))["dtype"] == "bfloat16"


@pytest.mark.usefixtures("unchecked")
def test_dtype_only_rounds_the_weights(options: ReleaseOptions, source: Path, tmp_path: Path) -> None:
    release(replace(options, dtype="bfloat16", dry_run=tmp_path / "staged"), QUICK)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "staged"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name].bfloat16(), theirs[name]) for name in ours)
    assert ModernBertForMaskedLM.from_pretrained(tmp_path / "staged").dtype == torch.bfloat16


@pytest.mark.usefixtures("warm_checks")
def test_native_release_loads_with_its_own_code(
    hub: LoopbackHub, api: HfApi, options: ReleaseOptions, tmp_path: Path
) -> None:
    release(replace(options, format="native"), QUICK, api)
    with_code = in_process(USE.replace("CODE", "True"), hub, tmp_path / "home")
    with_package = "import llm_jp_modernbert\n" + USE.replace("CODE", "False")
    assert in_process(with_package, hub, tmp_path / "home", refuse=False) == with_code
    assert with_code.startswith("LlmJpModernBertForMaskedLM")


@pytest.mark.usefixtures("unchecked")
def test_release_of_a_revision_does_not_change_main(hub: LoopbackHub, api: HfApi, options: ReleaseOptions) -> None:
    release(replace(options, revision="stage1-step-500"), QUICK, api)
    repository = hub.repositories["model", NAME]
    assert set(repository.find("main").files) == {".gitattributes"}
    assert "model.safetensors" in repository.find("stage1-step-500").files
    (checkpoint,) = checkpoints(api, NAME, QUICK)
    assert (checkpoint.stage, checkpoint.step, checkpoint.commit) == (
        "stage1",
        500,
        repository.branches["stage1-step-500"],
    )


@pytest.mark.usefixtures("unchecked")
def test_dry_run_writes_the_files_of_the_release(
    hub: LoopbackHub, api: HfApi, options: ReleaseOptions, tmp_path: Path
) -> None:
    staged = tmp_path / "staged"
    release(replace(options, dry_run=staged), QUICK)
    assert hub.log == []
    release(options, QUICK, api)
    files = {path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()}
    assert files | {".gitattributes"} == set(hub.repositories["model", NAME].find("main").files)
    assert all(hub.read(NAME, path) == (staged / path).read_bytes() for path in files)
    # A second dry run replaces the first, but no other directory.
    release(replace(options, dry_run=staged), QUICK)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        release(replace(options, dry_run=tmp_path / "mine"), QUICK)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@pytest.mark.usefixtures("warm_checks")
def test_failed_check_uploads_nothing(
    hub: LoopbackHub, api: HfApi, options: ReleaseOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def damage_weights(license: str, source: Path, folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        weights["model.layers.1.attn.Wo.weight"] *= 1.5
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    monkeypatch.setattr(staging, "stage_license", damage_weights)
    with pytest.raises(UsageError, match="off the source's"):
        release(options, QUICK, api)
    with pytest.raises(UsageError, match="off the source's"):
        release(replace(options, dry_run=tmp_path / "staged"), QUICK)
    assert [request for request in hub.log if request.method != "GET"] == []
    assert not (tmp_path / "staged").exists()


@pytest.mark.usefixtures("unchecked")
def test_recipe_contains_no_local_paths(options: ReleaseOptions, source: Path, tmp_path: Path) -> None:
    run = write_source(tmp_path / "run")
    recipe = {
        "stage": "stage1",
        "train_data": ["/home/somebody/corpus/*.jsonl.gz", {"path": "org/texts", "weight": 2}],
        "tokenizer": "../private/tokenizer",
        "output_dir": "/scratch/runs/nano",
        "init_from": None,
        "resume_from_checkpoint": "/scratch/runs/private/checkpoint-100",
    }
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    release(replace(options, source=run, dry_run=tmp_path / "staged"), QUICK)
    assert yaml.safe_load((tmp_path / "staged" / "recipe.yaml").read_text()) == {
        "stage": "stage1",
        "train_data": ["*.jsonl.gz", {"path": "org/texts", "weight": 2}],
        "tokenizer": "tokenizer",
        "output_dir": "nano",
        "init_from": None,
        "resume_from_checkpoint": "checkpoint-100",
    }


@pytest.mark.usefixtures("unchecked")
def test_tokens_in_a_source_are_not_published(
    hub: LoopbackHub, api: HfApi, options: ReleaseOptions, source: Path, tmp_path: Path
) -> None:
    secret = "hf_" + "aB3" * 12
    run = Path(shutil.copytree(source, tmp_path / "run"))
    (run / "recipe.yaml").write_text(yaml.safe_dump({"stage": "a", "hub_token": secret, "other": {"hub_token": "x"}}))
    release(replace(options, source=run, dry_run=tmp_path / "staged"), QUICK)
    assert yaml.safe_load((tmp_path / "staged" / "recipe.yaml").read_text()) == {"stage": "a", "other": {}}
    config = json.loads((run / "tokenizer_config.json").read_text())
    (run / "tokenizer_config.json").write_text(json.dumps({**config, "auth": secret}))
    with pytest.raises(UsageError, match=r"tokenizer_config\.json contains an access token") as caught:
        release(replace(options, source=run), QUICK, api)
    assert secret not in str(caught.value)
    assert hub.repositories == {}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "name", ["LICENSE", "recipe.yaml", "chat_template.jinja", "training.json", "additional_chat_templates"]
)
def test_link_out_of_the_source_is_refused(options: ReleaseOptions, source: Path, tmp_path: Path, name: str) -> None:
    run = Path(shutil.copytree(source, tmp_path / "run"))
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "a.jinja").write_text("private")
    (run / name).symlink_to(tmp_path / "private" / ("" if "templates" in name else "a.jinja"))
    with pytest.raises(UsageError, match=rf"run/{re.escape(name)}.*: a symbolic link to a file outside"):
        release(replace(options, source=run, dry_run=tmp_path / "staged"), QUICK)
    assert not (tmp_path / "staged").exists()


@pytest.mark.usefixtures("unchecked")
def test_links_of_the_hub_cache_and_to_weights_are_followed(
    hub: LoopbackHub, api: HfApi, options: ReleaseOptions, source: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(source, tmp_path / "run"))
    (run / "model.safetensors").rename(tmp_path / "weights.safetensors")
    (run / "model.safetensors").symlink_to(tmp_path / "weights.safetensors")
    release(replace(options, source=run, license="apache-2.0"), QUICK, api)
    snapshot = Path(api.snapshot_download(NAME))
    assert (snapshot / "LICENSE").is_symlink()
    again = release(replace(options, source=snapshot), QUICK, api)
    assert not again.is_new


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("change", [{"repository": "org/other"}, {"revision": "stage1-step-7"}])
def test_dry_run_does_not_replace_another_release(
    options: ReleaseOptions, tmp_path: Path, change: dict[str, str]
) -> None:
    staged = replace(options, dry_run=tmp_path / "staged")
    release(staged, QUICK)
    before = (tmp_path / "staged" / "README.md").read_bytes()
    with pytest.raises(UsageError, match=f"holds the release {NAME}@main"):
        release(replace(staged, **change), QUICK)
    (tmp_path / "staged" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds notes\.txt"):
        release(staged, QUICK)
    assert (tmp_path / "staged" / "README.md").read_bytes() == before
    with lock(tmp_path / "staged", "release"), pytest.raises(UsageError, match="another release is writing it"):
        release(staged, QUICK)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("recipe.yaml", b"- a"),
        ("recipe.yaml", b"[" * 1000),
        ("recipe.yaml", b"a: &a [x]\nb: &b [" + b"*a," * 999 + b"]\nc: &c [" + b"*b," * 999 + b"]"),
        ("training.json", b"[" * 200_000),
        ("training.json", b'{"schema": 1, "stages": 3}'),
        ("training.json", b'{"schema": 1, "stages": [[]]}'),
        ("training.json", b'{"schema": 1, "stages": [{"stage": "a", "steps": 1}]}'),
        ("averaged_from.json", b'[{"name": "a"}]'),
        ("averaged_from.json", b"{}"),
        ("config.json", b'{"model_type": ["modernbert"]}'),
        ("config.json", b'{"model_type": "modernbert", "num_hidden_layers": "x"}'),
        ("config.json", b'{"model_type": "modernbert", "hidden_size": null}'),
        ("model.safetensors", b""),
        ("model.safetensors", b"\xff" * 100),
        ("model.safetensors", b"\x02\0\0\0\0\0\0\0[]"),
        ("tokenizer.json", b"{}"),
        ("tokenizer_config.json", b"[]"),
    ],
)
def test_damaged_file_of_a_source_is_reported_in_one_line(
    options: ReleaseOptions, source: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    run = Path(shutil.copytree(source, tmp_path / "run"))
    (run / name).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        release(replace(options, source=run, dry_run=tmp_path / "staged"), QUICK)
    assert "\n" not in str(caught.value)
    assert str(run) in str(caught.value)
    assert not (tmp_path / "staged").exists()


def test_mistyped_training_summary_is_one_line(source: Path, tmp_path: Path) -> None:
    summary = json.loads(files("llm_jp_modernbert.model_cards").joinpath(SUMMARY).read_text("utf-8"))
    # One stage without a curve, of which a plot would be drawn.
    (stage := summary["stages"][0]).pop("curve")
    summary["stages"] = [stage]
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    for part in (stage, stage["recipe"], stage["data"][0]):
        for key, value in list(part.items()):
            for odd in (None, []):
                part[key] = odd
                (copy / "training.json").write_text(json.dumps(summary))
                with suppress(UsageError):
                    staging.write_card(copy, NAME)
            part[key] = value


@pytest.mark.usefixtures("unchecked")
def test_full_disk_is_one_line_and_leaves_nothing(options: ReleaseOptions, tmp_path: Path) -> None:
    with file_size_limit(100_000), pytest.raises(UsageError, match=rf"^{tmp_path}/staged: ") as caught:
        release(replace(options, dry_run=tmp_path / "staged"), QUICK)
    assert "\n" not in str(caught.value)
    assert [path for path in tmp_path.iterdir() if "staged" in path.name] == []


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repository": "name"}, "write ORG/NAME"),
        ({"repository": "org/na me"}, "--repo org/na me"),
        ({"repository": "./name"}, "--repo ./name: not the name of a repository"),
        ({"source": Path("missing")}, "no such directory"),
        ({"int8": True}, "add --onnx"),
        ({"format": "native", "onnx": True}, "--format native has neither ONNX nor"),
        ({"results": Path("missing")}, "no such folder of results"),
        ({"license": "my-own"}, "my-own"),
        ({"license": "mit", "license_name": "my-own"}, "--license-name needs --license other"),
    ],
)
def test_invalid_options_are_reported_in_one_line(
    options: ReleaseOptions, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        release(replace(options, dry_run=tmp_path / "staged", **change), QUICK)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "staged").exists()


def test_unsupported_sources_are_reported(options: ReleaseOptions, source: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint-7").mkdir()
    with pytest.raises(UsageError, match=r"last checkpoint is .*checkpoint-7"):
        release(replace(options, source=tmp_path), QUICK)
    pickled = write_source(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(UsageError, match="no weights in safetensors"):
        release(replace(options, source=pickled), QUICK)
    bert = write_source(tmp_path / "bert")
    (bert / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UsageError, match="is a bert model"):
        release(replace(options, source=bert), QUICK)
    for content, reason in (("[]", "is not a JSON object"), ("{", "cannot be read")):
        (bert / "config.json").write_text(content)
        with pytest.raises(UsageError, match=rf"bert/config\.json: {reason}"):
            release(replace(options, source=bert), QUICK)


@pytest.mark.usefixtures("unchecked")
def test_missing_results_of_the_model_are_reported(options: ReleaseOptions, source: Path, tmp_path: Path) -> None:
    other = write_source(tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    save_file({name: 2 * value for name, value in weights.items()}, other / "model.safetensors", {"format": "pt"})
    results = write_results(tmp_path / "results", source)
    with pytest.raises(UsageError, match="no result of this model's weights"):
        release(replace(options, source=other, results=results, dry_run=tmp_path / "staged"), QUICK)


@pytest.mark.usefixtures("warm_checks")
def test_commands(default_hub: LoopbackHub, source: Path, tmp_path: Path) -> None:
    run = command("release", source, "--repo", NAME, "--revision", "stage1-step-7")
    assert run.exit_code == 0, run.output
    assert f"Released as {NAME}@stage1-step-7" in run.stdout
    assert "comparing its outputs" in run.stderr
    assert default_hub.token not in run.output
    run = command("checkpoints", NAME, "--json")
    assert [checkpoint["step"] for checkpoint in json.loads(run.stdout)] == [7]
    run = command("checkpoints", NAME)
    assert f"Load one as {NAME}@stage1-step-7." in run.stdout
    run = command("pull", f"{NAME}@stage1-step-7", "--out", tmp_path / "model")
    assert run.exit_code == 0, run.output
    assert "files match the Hub's checksums" in run.stdout
    run = command("fill-mask", f"{NAME}@stage1-step-7", "今日のご飯は[MASK]である。", "--json")
    assert run.exit_code == 0, run.output
    # --private does not publish in an existing public repository.
    run = command("release", source, "--repo", NAME, "--private")
    assert isinstance(run.exception, UsageError)
    assert "is public" in str(run.exception)

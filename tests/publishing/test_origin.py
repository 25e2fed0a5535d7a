"""A card states the base model, the languages and the license of a model from what is on disk or on the Hub."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import HfApi, ModelCard
from loopback_hub import LoopbackHub
from releases import NAME, QUICK, write_source

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.publishing import push
from llm_jp_modernbert.publishing import release as module
from llm_jp_modernbert.publishing.check import Checked
from llm_jp_modernbert.publishing.options import ReleaseOptions
from llm_jp_modernbert.publishing.release import prepare_checkpoint, release
from llm_jp_modernbert.training.recipe.loading import load_recipe
from llm_jp_modernbert.training.run.averaging import average_checkpoints

BASE = "org/base-ja"
BASE_CARD = "---\nlanguage: [ja, en]\nlicense: mit\n---\n\n# A model\n"
TRAINED, CONTINUED = "It was trained on 98,253 tokens", "It continues the training of"


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the check in a separate process, which is slow."""
    monkeypatch.setattr(module, "check", lambda *arguments: Checked())


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("models") / "nano")


Write = Callable[..., Path]


@pytest.fixture
def write_run(weights: Path, tmp_path: Path) -> Write:
    """Writes a run that trained for 98,253 tokens, after the stages of `init_from` if that is a run."""

    def write(name: str, init_from: Path | str | None = None, data: str = "train.jsonl", is_old: bool = False) -> Path:
        run = Path(shutil.copytree(weights, tmp_path / name))
        log = Path(str(init_from)) / "training.json"
        earlier = json.loads(log.read_text())["stages"] if log.is_file() else []
        recipe: dict[str, Any] = {"sequence_length": 32, **({} if init_from else {"model": "nano"})}
        stage: dict[str, Any] = {"stage": name, "steps": 4, "max_steps": 4, "tokens": 98_253, "recipe": recipe}
        stage |= {"data": [{"name": data}], "curve": {}}
        if not is_old:
            stage["init_from"] = Path(str(init_from)).name if isinstance(init_from, Path) else init_from
        (run / "training.json").write_text(json.dumps({"schema": 1, "stages": [*earlier, stage]}))
        settings = {**recipe, "stage": name, "train_data": data, "init_from": str(init_from) if init_from else None}
        (run / "recipe.yaml").write_text(yaml.safe_dump(settings))
        return run

    return write


@pytest.fixture
def base(hub: LoopbackHub, api: HfApi, weights: Path) -> str:
    """A published model, which is not one of this package, with a card."""
    hub.create("model", BASE, "public")
    api.upload_folder(repo_id=BASE, folder_path=weights)
    api.upload_file(path_or_fileobj=BASE_CARD.encode(), path_in_repo="README.md", repo_id=BASE)
    return BASE


@pytest.fixture
def card_of(api: HfApi, tmp_path: Path) -> Callable[..., ModelCard]:
    """Releases a model and returns its card."""

    def card(source: Path, **options: Any) -> ModelCard:
        release(ReleaseOptions(source, NAME, **options), QUICK, api)
        return ModelCard(Path(api.hf_hub_download(NAME, "README.md", force_download=True)).read_text(encoding="utf-8"))

    return card


Card = Callable[..., ModelCard]


def stated(card: ModelCard) -> Mapping[str, Any]:
    return {name: card.data.get(name) for name in ("base_model", "license", "language")}


NOTHING = {"base_model": None, "license": None, "language": None}


def test_nothing_is_claimed_for_a_new_model(write_run: Write, card_of: Card, caplog: pytest.LogCaptureFixture) -> None:
    card = card_of(write_run("stage1"))
    assert stated(card) == NOTHING
    assert f"{TRAINED}.\n" in card.text
    assert "The license is not stated." in card.text
    assert "Japanese" not in card.text.partition("## Usage")[0]
    assert "Give --license, --language." in caplog.text
    assert "apache" not in str(card)


def test_given_options_are_stated(write_run: Write, card_of: Card, caplog: pytest.LogCaptureFixture) -> None:
    run = write_run("stage1", init_from="/no/longer/there")
    card = card_of(run, license="mit", languages=["ja"], base_model=BASE)
    assert stated(card) == {"base_model": BASE, "license": "mit", "language": ["ja"]}
    assert "leaves out" not in caplog.text


def test_own_stages_are_summed_and_are_no_base_model(write_run: Write, card_of: Card) -> None:
    card = card_of(write_run("stage2", init_from=write_run("stage1")))
    assert card.data.base_model is None
    assert "It was trained on 196,506 tokens in 2 stages." in card.text


def test_model_on_the_hub_is_the_base_model(
    write_run: Write, card_of: Card, base: str, hub: LoopbackHub, caplog: pytest.LogCaptureFixture
) -> None:
    card = card_of(write_run("adapted", init_from=base))
    assert stated(card) == {"base_model": BASE, "license": "mit", "language": ["ja", "en"]}
    link = f"[org/base-ja](https://huggingface.co/{BASE})"
    assert (
        f"{CONTINUED} {link} for 98,253 tokens; the tokens of that model's own training are not included." in card.text
    )
    assert f"{link} の学習を約9.83万トークン継続したモデルです。" in card.text
    # Nothing is said about all the tokens or the longest sequence that the model was trained on.
    assert TRAINED not in card.text
    assert "per parameter" not in card.text
    assert "was trained on sequences of at most" not in card.text
    assert f"init_from={BASE}" in card.text
    assert yaml.safe_load(hub.read(NAME, "recipe.yaml"))["init_from"] == BASE
    assert "2412.13663" in card.text
    assert "leaves out" not in caplog.text


@pytest.mark.parametrize("is_old", [False, True])
def test_stages_of_an_adapted_model_are_continued(write_run: Write, card_of: Card, base: str, is_old: bool) -> None:
    """Also if the first stage is from a log of version 0.1, which does not say what it started from."""
    first = write_run("adapted", init_from=base, is_old=is_old)
    card = card_of(write_run("stage2", init_from=first))
    assert card.data.base_model == BASE
    assert re.search(rf"{CONTINUED} \[{BASE}\]\S* for 196,506 tokens in 2 stages;", card.text)


def test_base_model_with_a_training_log_is_named_and_its_tokens_count(
    write_run: Write, card_of: Card, hub: LoopbackHub, api: HfApi
) -> None:
    first = write_run("stage1")
    release(ReleaseOptions(first, BASE, license="mit"), QUICK, api)
    run = write_run("stage2", init_from=first)
    settings = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump({**settings, "init_from": f"{BASE}@main"}))
    log = json.loads((run / "training.json").read_text())
    log["stages"][-1]["init_from"] = f"{BASE}@main"
    (run / "training.json").write_text(json.dumps(log))
    card = card_of(run)
    assert stated(card) == {"base_model": BASE, "license": "mit", "language": None}
    assert f"It was trained on 196,506 tokens in 2 stages, including those of its base model [{BASE}]" in card.text
    # A release of both stages to one repository has no base model.
    release(ReleaseOptions(run, BASE), QUICK, api)
    text = Path(api.hf_hub_download(BASE, "README.md", force_download=True)).read_text(encoding="utf-8")
    assert "base_model" not in text


@pytest.mark.parametrize("named_by", ["release.json", "README.md"])
def test_local_copy_of_a_published_model_is_its_repository(
    write_run: Write, card_of: Card, hub: LoopbackHub, weights: Path, tmp_path: Path, named_by: str
) -> None:
    copy = Path(shutil.copytree(weights, tmp_path / "private" / "modernbert"))
    if named_by == "release.json":
        manifest = {"schema": 1, "name": f"{BASE}@main", "files": {}}
        (copy / "release.json").write_text(json.dumps(manifest))
        (copy / "README.md").write_text(BASE_CARD)
    else:
        (copy / "README.md").write_text(
            BASE_CARD.replace("license: mit", f"license: mit\nmodel-index: [{{name: {BASE}}}]")
        )
    card = card_of(write_run("adapted", init_from=copy))
    assert stated(card) == {"base_model": BASE, "license": "mit", "language": ["ja", "en"]}
    assert yaml.safe_load(hub.read(NAME, "recipe.yaml"))["init_from"] == BASE
    assert "private" not in str(card)


def test_unknown_base_model_is_asked_for(
    write_run: Write,
    card_of: Card,
    hub: LoopbackHub,
    weights: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    card = card_of(write_run("adapted", init_from=Path(shutil.copytree(weights, tmp_path / "somewhere"))))
    assert stated(card) == NOTHING
    assert f"{CONTINUED} another model for 98,253 tokens;" in card.text
    assert "Give --license, --language, --base-model." in caplog.text
    assert "init_from=BASE_MODEL" in card.text
    # The published recipe requires the key, and does not name a directory of this machine.
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(hub.read(NAME, "recipe.yaml"))
    with pytest.raises(UsageError, match="init_from"):
        load_recipe(str(recipe), ["use_cpu=true", "output_dir=x"])
    assert "somewhere" not in recipe.read_text(encoding="utf-8")


@pytest.mark.parametrize("is_old", [False, True])
def test_directory_that_is_gone_is_no_repository(write_run: Write, card_of: Card, is_old: bool) -> None:
    """`runs/stage1` may also be the name of a repository."""
    run = write_run("adapted", init_from="runs/stage1", is_old=True)
    if not is_old:
        log = json.loads((run / "training.json").read_text())
        log["stages"][0]["init_from"] = "stage1"
        (run / "training.json").write_text(json.dumps(log))
    card = card_of(run)
    assert stated(card) == NOTHING
    assert f"{CONTINUED} another model" in card.text


def test_average_has_the_origin_of_its_checkpoints(write_run: Write, card_of: Card, base: str, tmp_path: Path) -> None:
    run = write_run("adapted", init_from=base)
    card = card_of(average_checkpoints([run, run], tmp_path / "mean"))
    assert card.data.base_model == BASE
    assert CONTINUED in card.text
    assert "The weights are the mean of 2 checkpoints" in card.text


def test_model_of_others_keeps_what_its_card_states(card_of: Card, base: str, weights: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(weights, tmp_path / "downloaded"))
    (copy / "README.md").write_text(
        "---\nlanguage: ja\nlicense: other\nlicense_name: my-own\nbase_model: [org/base-ja]\n---\n"
    )
    (copy / "LICENSE").write_text("as you like")
    card = card_of(copy)
    assert stated(card) == {"base_model": BASE, "license": "other", "language": ["ja"]}
    assert "The license is [my-own](LICENSE)." in card.text
    assert (card.data.license_name, card.data.license_link) == ("my-own", "LICENSE")
    assert f"Its base model is [{BASE}]" in card.text
    assert "trained on" not in card.text.partition("## Usage")[0]
    assert "The model was published with" in card.text


def test_data_on_the_hub_gives_languages(write_run: Write, card_of: Card, hub: LoopbackHub, api: HfApi) -> None:
    hub.create("dataset", "org/texts", "public")
    text = b"---\nlanguage: [ja, ko]\nlicense: cc-by-4.0\n---\n"
    api.upload_file(path_or_fileobj=text, path_in_repo="README.md", repo_id="org/texts", repo_type="dataset")
    card = card_of(write_run("stage1", data="org/texts"))
    # The license of the data is not that of the model.
    assert stated(card) == {"base_model": None, "license": None, "language": ["ja", "ko"]}
    assert card.data.datasets == ["org/texts"]


@pytest.mark.parametrize(
    "text",
    [
        "---\nlicense: [mit]\nlanguage: {ja: 1}\nbase_model: 3\nmodel-index: text\n---\n",
        "---\n- ja\n---\n",
        "---\nlicense: my-own\nlanguage: [jp, Japanese]\n---\n",
        "---\n: [\n---\n",
    ],
)
def test_mistyped_cards_state_nothing(
    write_run: Write, card_of: Card, weights: Path, tmp_path: Path, text: str
) -> None:
    copy = Path(shutil.copytree(weights, tmp_path / "copy"))
    (copy / "README.md").write_text(text)
    assert stated(card_of(write_run("adapted", init_from=copy))) == NOTHING


def test_yaml_bomb_in_a_card_is_ignored(
    write_run: Write, card_of: Card, base: str, api: HfApi, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    bomb = "\n".join(["---", *lines, "---", ""]).encode()
    api.upload_file(path_or_fileobj=bomb, path_in_repo="README.md", repo_id=BASE)
    assert stated(card_of(write_run("adapted", init_from=base))) == {**NOTHING, "base_model": BASE}
    assert "README.md: invalid YAML" in caplog.text


def test_dry_run_uses_no_network(write_run: Write, base: str, hub: LoopbackHub, tmp_path: Path) -> None:
    run = write_run("adapted", init_from=base)
    hub.log.clear()
    release(ReleaseOptions(run, NAME, dry_run=tmp_path / "staged"), QUICK)
    assert hub.log == []
    assert ModelCard((tmp_path / "staged" / "README.md").read_text(encoding="utf-8")).data.base_model == BASE


def test_pushed_checkpoints_name_the_base_model(
    write_run: Write, base: str, hub: LoopbackHub, api: HfApi, caplog: pytest.LogCaptureFixture
) -> None:
    hub.create("model", NAME, "public")
    run = write_run("adapted", init_from=base)
    prepare_checkpoint(api, NAME, run)
    assert "--license" not in caplog.text
    card = ModelCard((run / "README.md").read_text(encoding="utf-8"))
    assert stated(card) == {"base_model": BASE, "license": "mit", "language": ["ja", "en"]}
    assert CONTINUED in card.text


def test_pushed_model_names_the_repository_that_it_was_loaded_from(
    base: str, hub: LoopbackHub, api: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llm_jp_modernbert import LlmJpModernBertForMaskedLM

    monkeypatch.setattr("huggingface_hub.HfApi", lambda token=None: HfApi(hub.url, token or hub.token))
    monkeypatch.setattr(push, "PATIENT", QUICK)
    model = LlmJpModernBertForMaskedLM.from_pretrained(api.snapshot_download(BASE))
    model.config.name_or_path = BASE
    model.push_to_hub(NAME)
    assert stated(ModelCard(hub.read(NAME, "README.md").decode())) == {**NOTHING, "base_model": BASE}


def test_license_without_an_id_needs_a_name(write_run: Write, card_of: Card, caplog: pytest.LogCaptureFixture) -> None:
    card = card_of(write_run("stage1"), license="other", license_name="my-own-1.0")
    assert (card.data.license, card.data.license_name) == ("other", "my-own-1.0")
    assert "The license is my-own-1.0." in card.text
    assert "--license-name" not in caplog.text
    card_of(write_run("stage2"), license="other")
    assert "Give --language, --license-name." in caplog.text
    assert replace(ReleaseOptions(Path(), NAME)).license is None


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": {"sequence_length": "long"}},
        {"recipe": {"mlm_probability": [0.3]}},
        {"recipe": {"warmup_steps": "many"}},
        {"recipe": {"lr_scheduler_kwargs": {"num_decay_steps": "all"}}},
        {"recipe": {"packing": {}}},
        {"hardware": {"device": "CPU"}},
        {"curve": {"step": [1, 2], "loss": [5.0]}},
        {"curve": {"loss": [5.0]}},
    ],
)
def test_mistyped_training_log_is_reported_in_one_line(
    write_run: Write, tmp_path: Path, change: dict[str, Any]
) -> None:
    run = write_run("stage1")
    log = json.loads((run / "training.json").read_text())
    log["stages"][0] |= change
    (run / "training.json").write_text(json.dumps(log))
    with pytest.raises(UsageError, match=rf"training\.json: stages\.0\.{next(iter(change))}") as caught:
        release(ReleaseOptions(run, NAME, dry_run=tmp_path / "staged"), QUICK)
    assert "\n" not in str(caught.value)


def test_unknown_keys_of_a_recipe_are_kept(write_run: Write, card_of: Card) -> None:
    run = write_run("stage1")
    log = json.loads((run / "training.json").read_text())
    log["stages"][0]["recipe"]["key_of_a_later_version"] = 7
    (run / "training.json").write_text(json.dumps(log))
    assert "key_of_a_later_version: 7" in card_of(run).text


def test_names_that_no_file_can_have_do_not_block_a_release(write_run: Write, card_of: Card) -> None:
    run = write_run("stage1")
    settings = yaml.safe_load((run / "recipe.yaml").read_text())
    settings |= {"init_from": "x" * 300, "train_data": ["y" * 300, {"path": "z" * 300}, {"path": 5}, None]}
    (run / "recipe.yaml").write_text(yaml.safe_dump(settings))
    assert stated(card_of(run)) == NOTHING

"""A repository of somebody else neither runs code, nor writes elsewhere, nor blocks a job."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from forked import run_forked
from huggingface_hub import HfApi
from loopback_hub import LoopbackHub
from releases import NAME, QUICK
from typer.testing import CliRunner

from llm_jp_modernbert.cli import app
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.hub import checkpoints
from llm_jp_modernbert.publishing.pull import describe, pull

MODEL = [
    "config.json",
    "model-00001-of-00002.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
    "README.md",
    "LICENSE",
    "recipe.yaml",
    "chat_template.jinja",
    "1_Pooling/config.json",
    "onnx/model.onnx",
    "assets/学習 曲線.png",
    "results/fill-mask/org--name/test.json",
]
HIDDEN = [".git/hooks/post-checkout", ".git/config", ".gitmodules", ".envrc", ".github/a.yml", "a/.vscode/tasks.json"]
CODE = ["conftest.py", "modeling.py", "sitecustomize.py", "torch/__init__.py"]
RUN_CODE = [
    *("training_args.bin", "model.pt", "model.pt2", "model.PT", "a.pkl", "a.pckl", "a.npy", "a.npz", "a.joblib"),
    *("a.dill", "a.keras", "a.h5", "a.ckpt", "a.distcp", "x.pth", "a.so", "a.dll", "a.sh", "a.ipynb", "pickled.model"),
    *(
        "Makefile",
        "pytest.ini",
        "pyproject.toml",
        "setup.cfg",
        "a.svg",
        "a.html",
        "a.json ",
        "config.json.exe",
        "\x1b]0;a",
    ),
]


def upload(hub: LoopbackHub, files: dict[str, bytes], branch: str = "main") -> None:
    """Writes files without the checks of the client and of the Hub."""
    repository = hub.repositories.get(("model", NAME)) or hub.create("model", NAME, "public")
    head = repository.find(branch) or repository.find("main")
    assert head is not None
    repository.branches.setdefault(branch, head.oid)
    repository.commit(branch, "", {**head.files, **{path: hub.store(content) for path, content in files.items()}})


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def test_pull_copies_only_files_of_a_model(hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    others = [*HIDDEN, *RUN_CODE, *CODE]
    upload(hub, dict.fromkeys([*MODEL, *others], b"{}"))
    pulled = pull(NAME, out=tmp_path / "out", patience=QUICK, api=api)
    assert files_of(tmp_path / "out") == set(MODEL)
    assert set(pulled.skipped) == set(others)
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    cached = set().union(*(files_of(path) for path in (tmp_path / "cache").glob("*/snapshots/*")))
    assert cached == {*MODEL, ".gitattributes"}


def test_python_files_need_an_option(hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    upload(hub, dict.fromkeys(("config.json", *CODE, *HIDDEN), b"{}"))
    pulled = pull(NAME, out=tmp_path / "out", patience=QUICK, api=api, trust_remote_code=True)
    assert files_of(tmp_path / "out") == {"config.json", *CODE}
    assert set(pulled.skipped) == set(HIDDEN)


@pytest.mark.parametrize(
    "path", ["../config.json", "a/../../b.json", "/tmp/b.json", "C:b.json", "..\\b.json", "a\\..\\..\\b.json"]
)
def test_path_outside_of_the_directory_is_refused(hub: LoopbackHub, api: HfApi, tmp_path: Path, path: str) -> None:
    upload(hub, {"config.json": b"{}", path: b"{}"})
    with pytest.raises(UsageError, match="outside of its directory"):
        pull(NAME, out=tmp_path / "out", patience=QUICK, api=api)
    assert not (tmp_path / "out").exists()


def test_names_that_differ_in_case_only_are_downloaded_once(hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    upload(hub, {"config.json": b"{}", "Config.json": b"[]", "CONFIG.JSON": b"[]", "a/b.txt": b"", "A/b.txt": b"a"})
    pulled = pull(NAME, out=tmp_path / "out", patience=QUICK, api=api)
    assert files_of(tmp_path / "out") == {"config.json", "a/b.txt"}
    assert set(pulled.skipped) == {"Config.json", "CONFIG.JSON", "A/b.txt"}
    assert (tmp_path / "out" / "config.json").read_bytes() == b"{}"


def test_repository_of_very_many_files_is_refused(hub: LoopbackHub, api: HfApi) -> None:
    upload(hub, {"config.json": b"{}", **{f"results/{number}.json": b"" for number in range(20_000)}})
    with pytest.raises(UsageError, match=r"^org/name@main has 20,002 files\. At most 10,000"):
        pull(NAME, patience=QUICK, api=api)


def test_name_that_looks_like_another_does_not_replace_it(hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    upload(hub, {"config.json": b"{}", "conﬁg.json": b"[]"})
    pulled = pull(NAME, out=tmp_path / "out", patience=QUICK, api=api)
    assert files_of(tmp_path / "out") == {"config.json"}
    assert pulled.skipped == ("conﬁg.json",)


def test_pull_writes_the_directory_that_a_symbolic_link_names(hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    upload(hub, {"config.json": b"{}"})
    (tmp_path / "disk").mkdir()
    for name in ("empty", "missing"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    (tmp_path / "disk" / "empty").mkdir()
    for name in ("empty", "missing"):
        pull(NAME, out=tmp_path / name, patience=QUICK, api=api)
        assert (tmp_path / name).is_symlink()
        assert files_of(tmp_path / "disk" / name) == {"config.json"}
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["empty", "missing"]


def test_file_of_the_manifest_that_is_missing_is_reported(hub: LoopbackHub, api: HfApi) -> None:
    entry = {"size": 1, "sha256": "0" * 64}
    for path in ("model.safetensors", "../../secret", "missing.bin"):
        upload(hub, {"config.json": b"{}", "release.json": json.dumps({"files": {path: entry}}).encode()})
        with pytest.raises(UsageError, match=r"is missing, but release\.json lists it"):
            pull(NAME, patience=QUICK, api=api)


BAD_TRAINING = {
    "nested": "[" * 200_000,
    "mistyped": '{"stages": [{"stage": "a", "steps": "1", "tokens": 2}]}',
    "empty": '{"stages": []}',
    "infinite": '{"stages": [{"stage": "a", "steps": 1, "tokens": 1e999}]}',
    "html": "<html>",
    "binary": "\udcff",
}


def test_bad_training_log_of_one_revision_is_skipped_by_name(
    hub: LoopbackHub, api: HfApi, caplog: pytest.LogCaptureFixture
) -> None:
    for name, content in BAD_TRAINING.items():
        upload(hub, {"training.json": content.encode(errors="surrogateescape")}, branch=name)
    good = {"stages": [{"stage": "stage1", "steps": 5, "tokens": 7, "later": {}}]}
    upload(hub, {"training.json": json.dumps(good).encode()}, branch="good")
    (checkpoint,) = checkpoints(api, NAME, QUICK)
    assert (checkpoint.revision, checkpoint.step, checkpoint.tokens) == ("good", 5, 7)
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("llm_jp_modernbert")]
    assert all(
        any(f"{NAME}@{name} " in line and "training.json" in line for line in warnings) for name in BAD_TRAINING
    )
    assert not any("\n" in line for line in warnings)


def safetensors(header: str, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header.encode() + data


BOMB = "---\nlicense: mit\na: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join(['*' + before] * 10)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("path", "content", "fact"),
    [
        ("config.json", b'{"num_hidden_layers": "12", "hidden_size": [1], "max_position_embeddings": {}}', "shape"),
        ("training.json", b"[" * 200_000, "training"),
        ("training.json", b'{"stages": [{"stage": 1, "steps": "x"}]}', "training"),
        ("README.md", f"{BOMB}---\n".encode(), "results"),
        ("README.md", b"---\nmodel-index: {a: 1}\nlicense: [[mit]]\n---\n", "results"),
        ("README.md", b"---\n- a\n---\n", "license"),
        ("README.md", b"---\n" + b"[" * 10_000 + b"\n---\n", "license"),
        ("README.md", b"\xff\xfe---\n", "license"),
        ("model.safetensors", b"", None),
        ("model.safetensors", struct.pack("<Q", 1 << 62), None),
        ("model.safetensors", safetensors("[]"), None),
        ("model.safetensors", safetensors('{"a": {"dtype": "F32"}}'), None),
        ("model.safetensors", safetensors('{"a": {"dtype": 1, "shape": "x", "data_offsets": [0]}}'), None),
        ("model.safetensors", safetensors('{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}'), None),
    ],
)
def test_odd_files_are_described_without_an_error(tmp_path: Path, path: str, content: bytes, fact: str | None) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "modernbert"}')
    (tmp_path / path).write_bytes(content)
    facts = describe(tmp_path)
    assert not facts.get(fact or "")
    assert fact or facts["weights"].startswith("model.safetensors cannot be read")


def test_terminal_escapes_of_a_repository_are_not_printed(default_hub: LoopbackHub) -> None:
    escape = "\x1b]0;title\x07\x1b[31m\x9b2J"
    training = json.dumps({"stages": [{"stage": f"s{escape}", "steps": 5, "tokens": 7}]}).encode()
    card = "---\nlicense: " + json.dumps(f"mit{escape}") + "\n---\n"
    files = {"config.json": json.dumps({"model_type": f"a{escape}"}).encode(), "README.md": card.encode()}
    upload(default_hub, {**files, "training.json": training, f"a{escape}.bin": b""}, branch=f"v{escape}1")
    upload(default_hub, {**files, "training.json": training, f"a{escape}.bin": b""})
    for arguments in (["checkpoints", NAME], ["pull", NAME], ["checkpoints", NAME, "--json"]):
        run = CliRunner().invoke(app, arguments)
        assert run.exit_code == 0, run.output
        assert not {"\x1b", "\x07", "\x9b"} & set(run.stdout + run.stderr)


@pytest.mark.parametrize("arguments", [["pull", "./model"], ["pull", "a/b/c"], ["checkpoints", "/tmp/model"]])
def test_local_directory_is_not_a_repository(arguments: list[str]) -> None:
    run = run_forked(*arguments)
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line.endswith("not the name of a repository on the Hub. Write ORG/NAME.")

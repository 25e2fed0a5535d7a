"""Fixtures of all test directories."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The test models are tiny: a second thread only adds synchronization.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# OpenVINO's converter starts threads and processes that send statistics, but not in CI.
os.environ["CI"] = "true"

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from checkpoints import TEXTS, write_checkpoint
from evaluation_data import WORDS, write_data
from huggingface_hub import HfApi
from loopback_hub import LoopbackHub
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM
from transformers.utils import logging as transformers_logging
from warm_process import WarmProcess

DATA_VARIABLE = "LLM_JP_MODERNBERT_TEST_DATA"
SLOW_VARIABLE = "LLM_JP_MODERNBERT_SLOW_TESTS"


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell ignores it in background jobs, but tests interrupt training.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def unchanged_process() -> Iterator[None]:
    """Restores what commands and libraries change in this process."""
    environment, folder, hook = dict(os.environ), Path.cwd(), sys.excepthook
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    loggers = [logging.getLogger(name) for name in ("llm_jp_modernbert", "transformers", "sentence_transformers")]
    logs = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    shows_bars, dtype = transformers_logging.is_progress_bar_enabled(), torch.get_default_dtype()
    yield
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    os.chdir(folder)
    sys.excepthook = hook
    for number, handler in signals.items():
        signal.signal(number, handler)
    for logger, level, handlers in logs:
        logger.setLevel(level)
        logger.handlers[:] = handlers
    if shows_bars != transformers_logging.is_progress_bar_enabled():
        (transformers_logging.enable_progress_bar if shows_bars else transformers_logging.disable_progress_bar)()
    torch.set_default_dtype(dtype)


@pytest.fixture(scope="module", autouse=True)
def unchanged_by_module() -> Iterator[None]:
    """No test depends on fixtures of other modules."""
    with unchanged_process():
        yield


@pytest.fixture(autouse=True)
def unchanged_by_test(unchanged_by_module: None) -> Iterator[None]:
    """No test depends on those before it."""
    with unchanged_process():
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Directory of real tokenizers and texts; tests that need it are skipped without it."""
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        pytest.skip(f"{DATA_VARIABLE} does not name a directory of test data")
    path = Path(folder)
    if not path.is_dir():
        pytest.skip(f"{DATA_VARIABLE}={folder} is not a directory")
    return path


@pytest.fixture(scope="session")
def modernbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny `modernbert` checkpoint, which transformers' own class loads as well."""
    words = ["".join(WORDS[number:] + WORDS[:number]) for number in range(len(WORDS))]
    return write_checkpoint(tmp_path_factory.mktemp("models") / "modernbert", texts=[*TEXTS, *words])


@pytest.fixture(scope="session")
def bert(modernbert: Path) -> Path:
    """A BERT with the same tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(modernbert)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
    )
    path = modernbert.with_name("bert")
    BertForMaskedLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small datasets in their official layouts."""
    return write_data(tmp_path_factory.mktemp("small-data"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A local Hub, and an empty cache."""
    # HF_HUB_OFFLINE is set above; this Hub is local.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with LoopbackHub(tmp_path / "hub") as running:
        yield running


@pytest.fixture
def default_hub(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoopbackHub:
    """The local Hub, which commands in this process use as its owner."""
    for name, value in {
        "huggingface_hub.constants.ENDPOINT": hub.url,
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "huggingface_hub.constants.HF_URL_HOSTS": frozenset({"127.0.0.1"}),
        "datasets.config.HF_ENDPOINT": hub.url,
        "datasets.config.HF_HUB_OFFLINE": False,
        "datasets.config.HF_DATASETS_CACHE": tmp_path / "datasets",
    }.items():
        monkeypatch.setattr(name, value)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    return hub


@pytest.fixture
def api(hub: LoopbackHub) -> HfApi:
    """A client of the Hub's owner."""
    return HfApi(endpoint=hub.url, token=hub.token)


@pytest.fixture(scope="session")
def warm_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmProcess]:
    """A process that has imported what a process without this package imports to check a release."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    # transformers copies code of models there without a lock, so that no other process may use it.
    environment["HF_MODULES_CACHE"] = str(tmp_path_factory.mktemp("modules"))
    imports = "from transformers import AutoTokenizer, ModernBertForMaskedLM, pipeline\nimport datasets"
    with WarmProcess(imports, environment) as process:
        yield process


@pytest.fixture
def warm_checks(warm_process: WarmProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Releases are checked in processes that are forked from `warm_process`, which saves seconds."""
    monkeypatch.setattr("llm_jp_modernbert.core.clean_process.subprocess", warm_process)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the client retry without waiting, and write downloads in small chunks, so that they can be resumed."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 12)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)


def pytest_collection_finish() -> None:
    # Every training collects garbage, which takes half a second among the objects of all imports.
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reasons = {}
    if not torch.cuda.is_available():
        reasons["gpu"] = "needs a CUDA device"
    if os.environ.get(SLOW_VARIABLE) != "1":
        reasons["slow"] = f"slow: set {SLOW_VARIABLE}=1"
    for item in items:
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))

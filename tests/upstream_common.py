"""Run transformers' own common model tests on this package's classes.

    python tests/upstream_common.py                # this package's classes
    python tests/upstream_common.py --peer         # transformers' ModernBERT, for comparison
    python tests/upstream_common.py -k save_load   # further arguments go to pytest

The tests are part of the source distribution of the installed transformers, which pip downloads once (or pass a local
one with `--sdist`); the default test command therefore excludes them, because it needs no network. The distribution
lacks some modules that the common tests import: this script writes small stand-ins. The tested classes are configured
in `tests/support/upstream_model_tester.py`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

TESTER = Path(__file__).resolve().parent / "support" / "upstream_model_tester.py"
PACKAGE = "transformers_common_tests"
UPSTREAM_FILES = ("test_modeling_common.py", "test_configuration_common.py")
NEEDED = ("parameterized", "pytest", "accelerate", "safetensors")

# Modules that the distribution lacks. Export and generation do not apply to an encoder.
STAND_INS = {
    "__init__.py": "",
    "exporters/__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/__init__.py": "",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/__init__.py": "",
    # Settings that every configuration must accept and keep; none is a default.
    "utils/test_configuration_utils.py": """config_common_kwargs = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["SomeModel"],
    "finetuning_task": "translation",
    "id2label": {0: "label"},
    "label2id": {"label": "0"},
    "problem_type": "regression",
    "_name_or_path": "some/model",
    "pad_token_id": 7,
}
""",
    "pytest.ini": "[pytest]\nfilterwarnings =\n    ignore\n",
}


def main() -> int:
    """Parse the command line, run the tests and return their exit status; 0 if none failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sdist", type=Path, help="Path of transformers' source distribution; by default it is downloaded."
    )
    parser.add_argument("--peer", action="store_true", help="Test transformers' own ModernBERT classes instead.")
    arguments, pytest_arguments = parser.parse_known_args()

    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"The upstream tests need {', '.join(missing)}: pip install {' '.join(missing)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="upstream_common_") as folder:
        workplace = Path(folder)
        unpack_tests(arguments.sdist or fetch_sdist(), workplace / PACKAGE)
        return run_tests(workplace, arguments.peer, pytest_arguments)


def fetch_sdist() -> Path:
    """Return the source distribution of the installed transformers, from the user's cache or the package index."""
    release = version("transformers")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "llm-jp-modernbert" / "upstream_common"
    archive = cache / f"transformers-{release}.tar.gz"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
            pip += ["--no-build-isolation", "--dest", folder, f"transformers=={release}"]
            if subprocess.run(pip).returncode:
                raise SystemExit(
                    f"pip could not download the source distribution of transformers {release}; see --sdist."
                )
            (Path(folder) / archive.name).rename(archive)
    return archive


def unpack_tests(archive: Path, folder: Path) -> None:
    """Write the common tests and the stand-ins as a package into `folder`."""
    if not archive.is_file():
        raise SystemExit(f"{archive} is not a file.")
    for name, text in STAND_INS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    with tarfile.open(archive) as tar:
        root = tar.getnames()[0].split("/")[0]
        for name in UPSTREAM_FILES:
            try:
                member = tar.extractfile(f"{root}/tests/{name}")
            except KeyError:
                raise SystemExit(f"{archive} does not contain tests/{name}.") from None
            assert member is not None
            (folder / name).write_bytes(member.read())


def run_tests(workplace: Path, peer: bool, pytest_arguments: list[str]) -> int:
    """Run pytest in a new process."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(workplace), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),
        "UPSTREAM_COMMON_CLASSES": "peer" if peer else "own",
    }
    tested = "its own ModernBERT" if peer else "llm-jp-modernbert"
    print(f"The common tests of transformers {version('transformers')} with {tested}:", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(workplace / PACKAGE / "pytest.ini")]
    command += ["--noconftest", "-p", "no:cacheprovider", "--tb=short", str(TESTER), *pytest_arguments]
    return subprocess.run(command, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())

"""Compares what two versions of sentence-transformers compute with the same models. Run as a script, not by pytest.

    python -m venv OLD && OLD/bin/pip install 'sentence-transformers==5.1.2' 'transformers<5'
    python tests/older_sentence_transformers.py OLD/bin/python [MODEL…]

The models are dry-run releases or models that the train commands wrote; by default small ones of each kind.
Late-interaction models are skipped by versions that do not have them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "support"))

from checkpoints import TEXTS
from safetensors.torch import load_file
from sentence_models import KINDS, write_sentence_model

from llm_jp_modernbert.core import plain_reload
from llm_jp_modernbert.inference.retrieval.layout import SETTINGS, make_portable

# The last text exceeds the maximum length.
_TEXTS = [*TEXTS, "猫" * 300]
_TOLERANCE = 1e-5


def outputs(python: str, model: Path, kind: str, file: Path) -> dict[str, Any]:
    """The outputs of a model in another environment, without this package."""
    request = {
        "model": str(model.resolve()),
        "auto_class": "AutoModel",
        "custom_code": False,
        "masked_texts": [],
        "rows": [],
        "fields": [],
        "embedder": kind,
        "texts": _TEXTS,
        "tensors": str(file),
        "programs": {},
    }
    command = [python, "-I", str(plain_reload.__file__)]
    run = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"{model}: {python} fails.\n{run.stderr}")
    return load_file(file)


def version(python: str) -> str:
    code = "import sentence_transformers; print(sentence_transformers.__version__)"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def compare(python: str, models: Sequence[Path]) -> bool:
    """Prints the largest difference of each model; returns whether all are small."""
    older, are_equal = version(python), True
    with TemporaryDirectory() as temporary:
        for model in models:
            settings = json.loads((model / SETTINGS).read_text(encoding="utf-8"))
            kind = settings.get("model_type", "SentenceTransformer")
            if kind == "MultiVectorEncoder" and int(older.split(".")[0]) < 6:
                print(f"{model.name}: version {older} has no {kind}")
                continue
            here, there = (
                outputs(program, model, kind, Path(temporary) / f"{number}.safetensors")
                for number, program in enumerate((sys.executable, python))
            )
            worst = max(float((there[name] - here[name]).abs().max()) for name in here)
            are_equal &= here.keys() == there.keys() and worst <= _TOLERANCE
            print(f"{model.name}: {kind}, {len(here)} outputs, largest difference to version {older} {worst:.1e}")
    return are_equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="Python of an environment with another version of sentence-transformers")
    parser.add_argument("models", nargs="*", type=Path)
    arguments = parser.parse_args()
    with TemporaryDirectory() as temporary:
        models = list(arguments.models)
        if not models:
            models = [write_sentence_model(Path(temporary) / kind, kind) for kind in KINDS]
            for model in models:
                make_portable(model)
        sys.exit(0 if compare(arguments.python, models) else "The versions differ.")


if __name__ == "__main__":
    main()

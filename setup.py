"""Dependencies, the console script, and the map from the folders of this repository to import names.

Every room of the house stands at the top of the repository; `package_dir` gives each its import name under
`llm_jp_modernbert`, so that nothing called `modeling` or `training` ever lands at the top of site-packages.
"""

from fnmatch import fnmatch
from pathlib import Path

from setuptools import find_packages, setup

# Folder at the top of the repository → import name below `llm_jp_modernbert`.
FOLDERS = ("modeling", "tokenization", "training", "evaluation", "model_cards")
NOT_INSTALLED = ("llm_jp_modernbert.model_cards.research*",)


def packages() -> list[str]:
    """Import names of all packages, wherever their folders are."""
    names = find_packages(include=["llm_jp_modernbert*"])
    for folder in FOLDERS:
        names += [f"llm_jp_modernbert.{name}" for name in find_packages(include=[f"{folder}*"])]
    return [name for name in names if not any(fnmatch(name, pattern) for pattern in NOT_INSTALLED)]


EXTRAS = {
    "flash": ["flash-attn>=2.8.3"],
    "onnx": ["onnx>=1.19", "onnxscript>=0.5.6", "onnxruntime>=1.23"],
    "eval": [
        "sentence-transformers>=5.4",
        "scikit-learn>=1.7",
        "scipy>=1.15",
        "seqeval>=1.2.2",
        "matplotlib>=3.10",
        "matplotlib-fontja>=1.1",
    ],
}
EXTRAS["mteb"] = ["mteb>=2.26", *EXTRAS["eval"]]
# The tests run every evaluation but JMTEB, whose tests are left out where mteb is missing.
EXTRAS["test"] = ["pytest>=9.2", "pytest-xdist>=3.8", "ruff>=0.17", "mypy>=2.4", *EXTRAS["eval"], *EXTRAS["onnx"]]

EXTRAS["all"] = sorted({requirement for extra in ("eval", "mteb", "onnx", "test") for requirement in EXTRAS[extra]})

setup(
    name="llm-jp-modernbert",
    version="0.1.0",
    description="Japanese long-context ModernBERT: use, train, measure and publish it",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=packages(),
    package_dir={f"llm_jp_modernbert.{folder}": folder for folder in FOLDERS},
    package_data={
        "llm_jp_modernbert": ["py.typed"],
        "llm_jp_modernbert.quickstart": ["corpus/*"],
        "llm_jp_modernbert.evaluation.data": ["prompts.jsonl"],
        "llm_jp_modernbert.model_cards": ["templates/*.md", "templates/*.txt", "templates/licenses/*"],
        "llm_jp_modernbert.training": ["recipes/*.yaml", "accelerate/*.yaml", "slurm/*.sbatch"],
    },
    # Lower bounds are versions that the tests were run with.
    install_requires=[
        "torch>=2.11",
        "transformers>=5.17",
        "accelerate>=1.15",
        "tokenizers>=0.22",
        "sentencepiece>=0.2.3",
        # Needed by sentencepiece.sentencepiece_model_pb2, which does not require it.
        "protobuf>=7.36.1",
        "datasets>=5.2",
        "evaluate>=0.4.6",
        "huggingface-hub>=1.33",
        "pyarrow>=26.0",
        "pandas>=2.3",
        "numpy>=2.2",
        "pyyaml>=6.0.3",
        "jinja2>=3.1.6",
        "markdown-it-py>=4.3",
        "typer>=0.29",
        "rich>=15.0",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["llm-jp-modernbert=llm_jp_modernbert.cli:main"]},
)

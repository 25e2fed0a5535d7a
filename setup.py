"""Package metadata, dependencies and the mapping from folders to import names.

`package_dir` maps the folders at the top of the repository to subpackages of `llm_jp_modernbert`, so that no package
named `modeling` or `training` is installed at the top of site-packages.
"""

import re
from fnmatch import fnmatch
from pathlib import Path

from setuptools import find_packages, setup

# Folder at the top of the repository → import name below `llm_jp_modernbert`.
FOLDERS = ("modeling", "tokenization", "training", "evaluation", "model_cards")
NOT_INSTALLED = ("llm_jp_modernbert.model_cards.research*",)


def packages() -> list[str]:
    """Import names of all installed packages."""
    names = find_packages(include=["llm_jp_modernbert*"])
    for folder in FOLDERS:
        names += [f"llm_jp_modernbert.{name}" for name in find_packages(include=[f"{folder}*"])]
    return [name for name in names if not any(fnmatch(name, pattern) for pattern in NOT_INSTALLED)]


EXTRAS = {
    "flash": ["flash-attn>=2.8.3"],
    "onnx": ["onnx>=1.19", "onnxscript>=0.5.6", "onnxruntime>=1.23"],
    "openvino": ["openvino>=2026.4"],
    "finetune": [
        "scikit-learn>=1.7",
        "scipy>=1.15",
        "seqeval>=1.2.2",
        "matplotlib>=3.10",
        "matplotlib-fontja>=1.1",
        "peft>=0.21",
    ],
}
EXTRAS["eval"] = ["sentence-transformers>=5.4", *EXTRAS["finetune"]]
EXTRAS["retrieval"] = [
    "sentence-transformers>=6.2",
    "bm25s>=0.3",
    "sudachipy>=0.7",
    "sudachidict-core",
    *EXTRAS["finetune"],
]
EXTRAS["demo"] = ["gradio==6.31.*", "matplotlib>=3.10", "matplotlib-fontja>=1.1"]
EXTRAS["corpus"] = ["datatrove[io]==0.10.*", "regex>=2025.11"]
EXTRAS["mteb"] = ["mteb>=2.26", *EXTRAS["eval"]]
EXTRAS["docs"] = [
    "mkdocs-material>=9.8",
    "mkdocstrings[python]>=1.0",
    "mkdocs-static-i18n>=1.3.1",
    "nbconvert>=7.17",
    "codespell>=2.4.3",
]
# mteb is not included: the tests of JMTEB are skipped if it is missing.
EXTRAS["test"] = [
    "pytest>=9.2",
    "pytest-xdist>=3.8",
    "ruff>=0.17",
    "mypy>=2.4",
    "setuptools>=77",
    # The notebooks in examples/.
    "jupytext>=1.19",
    "nbclient>=0.11",
    "ipykernel>=7.4",
    *EXTRAS["eval"],
    *EXTRAS["retrieval"],
    *EXTRAS["corpus"],
    *EXTRAS["onnx"],
    *EXTRAS["openvino"],
    *EXTRAS["demo"],
]

_ALL = ("eval", "mteb", "onnx", "openvino", "retrieval", "corpus", "demo", "test")
EXTRAS["all"] = sorted({requirement for extra in _ALL for requirement in EXTRAS[extra]})

ROOT = Path(__file__).parent
# Read, not imported: the build environment lacks the dependencies.
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "llm_jp_modernbert/__init__.py").read_text("utf-8"), re.MULTILINE
)
assert VERSION is not None

setup(
    name="llm-jp-modernbert",
    version=VERSION[1],
    description="Japanese long-context ModernBERT: train, evaluate, use and publish it",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    author="llm-jp-modernbert contributors",
    keywords="japanese modernbert masked-language-model encoder long-context transformers nlp",
    project_urls={
        "Paper": "https://arxiv.org/abs/2504.15544",
        "Model": "https://huggingface.co/llm-jp/llm-jp-modernbert-base",
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Natural Language :: Japanese",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Text Processing :: Linguistic",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=packages(),
    package_dir={f"llm_jp_modernbert.{folder}": folder for folder in FOLDERS},
    package_data={
        "llm_jp_modernbert": ["py.typed"],
        "llm_jp_modernbert.demo": ["style.css"],
        "llm_jp_modernbert.publishing.serving": ["probes/*.mjs"],
        "llm_jp_modernbert.quickstart": ["corpus/*"],
        "llm_jp_modernbert.evaluation.data": ["prompts.jsonl"],
        "llm_jp_modernbert.model_cards": ["templates/*.md", "templates/*.txt", "templates/licenses/*"],
        "llm_jp_modernbert.training.corpora": ["*.html", "recipes/*.yaml"],
        "llm_jp_modernbert.training": ["recipes/*.yaml", "accelerate/*.yaml", "slurm/*.sbatch"],
    },
    # The tests have passed with these lowest versions.
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
        "fsspec>=2026.2",
        "filelock>=3.29",
        "pydantic>=2.12",
        "typing-extensions>=4.15",
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

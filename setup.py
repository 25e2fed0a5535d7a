"""Dependencies, the console script, and the map from the folders of this repository to import names.

Every room of the house stands at the top of the repository; `package_dir` gives each its import name under
`llm_jp_modernbert`, so that nothing called `modeling` or `training` ever lands at the top of site-packages.
"""

from pathlib import Path

from setuptools import setup

METRICS = [f"evaluation/metrics{metric}" for metric in ("", "/alignment", "/uniformity", "/pseudo_perplexity")]
ROOMS = ["modeling", "tokenization", "training", "evaluation", *METRICS, "model_cards"]

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
    packages=[
        "llm_jp_modernbert",
        "llm_jp_modernbert.commands",
        *(f"llm_jp_modernbert.{room.replace('/', '.')}" for room in ROOMS),
    ],
    package_dir={f"llm_jp_modernbert.{room.replace('/', '.')}": room for room in ROOMS},
    package_data={
        "llm_jp_modernbert": ["py.typed", "quickstart_corpus/*"],
        "llm_jp_modernbert.evaluation": ["prompts.jsonl"],
        "llm_jp_modernbert.model_cards": ["*.md", "*.txt", "licenses/*"],
        "llm_jp_modernbert.training": ["recipes/*.yaml", "accelerate/*.yaml", "slurm/*.sbatch"],
    },
    # Lower bounds are versions that the tests were run with.
    install_requires=[
        "torch>=2.11",
        "transformers>=5.17",
        "accelerate>=1.15",
        "tokenizers>=0.22",
        "sentencepiece>=0.2.3",
        "datasets>=5.2",
        "evaluate>=0.4.6",
        "huggingface-hub>=1.33",
        "pyarrow>=26.0",
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

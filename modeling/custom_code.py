"""Custom code of native checkpoints: the map of the Auto classes and the copy of the model's code."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

CONFIG = "LlmJpModernBertConfig"
HEADS = {
    "AutoModel": "LlmJpModernBertModel",
    "AutoModelForMaskedLM": "LlmJpModernBertForMaskedLM",
    "AutoModelForPreTraining": "LlmJpModernBertForMaskedLM",
    "AutoModelForSequenceClassification": "LlmJpModernBertForSequenceClassification",
    "AutoModelForTokenClassification": "LlmJpModernBertForTokenClassification",
    "AutoModelForQuestionAnswering": "LlmJpModernBertForQuestionAnswering",
    "AutoModelForMultipleChoice": "LlmJpModernBertForMultipleChoice",
}
"""Auto class of transformers → class of this package."""

_MODELING = "modeling_llm_jp_modernbert"


def auto_map() -> dict[str, str]:
    """Return the `auto_map` of config.json: the file and the class that `trust_remote_code` loads per Auto class."""
    heads = {auto_class: f"{_MODELING}.{head}" for auto_class, head in HEADS.items()}
    return {"AutoConfig": f"configuration_llm_jp_modernbert.{CONFIG}", **heads}


def write_code(folder: str | os.PathLike[str]) -> None:
    """Copy the model's code, that is the modules that transformers finds by following relative imports.

    Args:
        folder: directory of the checkpoint.
    """
    # Imported here, because the package reads the names above without importing transformers.
    from transformers.dynamic_module_utils import get_relative_import_files

    model = Path(__file__).with_name(f"{_MODELING}.py")
    for file in {model, *map(Path, get_relative_import_files(model))}:
        shutil.copyfile(file, Path(folder) / file.name)

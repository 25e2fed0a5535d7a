"""What makes a native checkpoint load without this package: the Auto classes' map, and the code beside the weights."""

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
"""Which class here stands for which of transformers' Auto classes."""

_MODELING = "modeling_llm_jp_modernbert"


def auto_map() -> dict[str, str]:
    """The `auto_map` of config.json: for each Auto class the file and the class that `trust_remote_code` loads."""
    heads = {auto_class: f"{_MODELING}.{head}" for auto_class, head in HEADS.items()}
    return {"AutoConfig": f"configuration_llm_jp_modernbert.{CONFIG}", **heads}


def write_code(folder: str | os.PathLike[str]) -> None:
    """Copies the model's code, as far as transformers would follow its imports from a repository."""
    # Imported here, since the package reads the names above before transformers is wanted.
    from transformers.dynamic_module_utils import get_relative_import_files

    model = Path(__file__).with_name(f"{_MODELING}.py")
    for file in {model, *map(Path, get_relative_import_files(model))}:
        shutil.copyfile(file, Path(folder) / file.name)

"""Registration with transformers' Auto classes, in the way that transformers registers its own: by name.

`import llm_jp_modernbert` must register the model, yet cost nothing to a command that only prints its help. The public
`AutoModel.register` wants the classes themselves, and with them torch. So our names are entered in the tables of names
that transformers resolves on first use, once the module that holds a table has been executed, by whomever.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

from llm_jp_modernbert.modeling.custom_code import CONFIG, HEADS

MODEL_TYPE = "llm-jp-modernbert"


def _name_config(auto: ModuleType) -> None:
    auto.CONFIG_MAPPING_NAMES[MODEL_TYPE] = CONFIG
    auto.CONFIG_MAPPING._mapping[MODEL_TYPE] = CONFIG
    _point_to_this_package(auto.CONFIG_MAPPING)


def _name_models(auto: ModuleType) -> None:
    for auto_class, head in HEADS.items():
        _name_class(getattr(auto, auto_class)._model_mapping, head)


def _name_tokenizer(auto: ModuleType) -> None:
    # As for transformers' own ModernBERT: the file decides, whatever class is written beside it. What `LlmJpTokenizer`
    # saves is a plain fast tokenizer.
    _name_class(auto.TOKENIZER_MAPPING, "PreTrainedTokenizerFast")
    auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS.add(MODEL_TYPE)


def _name_class(mapping: Any, class_name: str) -> None:
    mapping._config_mapping[MODEL_TYPE] = CONFIG
    mapping._reverse_config_mapping[CONFIG] = MODEL_TYPE
    mapping._model_mapping[MODEL_TYPE] = class_name
    _point_to_this_package(mapping)


def _point_to_this_package(mapping: Any) -> None:
    """Where transformers would import `transformers.models.llm_jp_modernbert`, it finds this package's lazy names."""
    mapping._modules[MODEL_TYPE.replace("-", "_")] = sys.modules["llm_jp_modernbert"]


_TABLES: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": _name_config,
    "transformers.models.auto.modeling_auto": _name_models,
    "transformers.models.auto.tokenization_auto": _name_tokenizer,
}


class _TableFinder(MetaPathFinder):
    """Finds the modules of the tables as Python would, and has our names entered once they have been executed."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _TABLES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _TableLoader(spec.loader.name, spec.loader.path)
        return spec


class _TableLoader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _TABLES[module.__name__](module)


def register() -> None:
    """Enter our names in the tables that are imported already, and in the others when they will be."""
    for name, enter in _TABLES.items():
        if name in sys.modules:
            enter(sys.modules[name])
    if not any(isinstance(finder, _TableFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TableFinder())


def register_for_modernbert() -> None:
    """Let `AutoModel*.from_pretrained` return this package's classes for every `modernbert` checkpoint.

    Their configuration stays plain: what is saved is a `modernbert` checkpoint again. A configuration that is made
    from nothing (`AutoConfig.for_model("modernbert")`) has this package's defaults and model type instead.
    `unregister_for_modernbert` undoes it.
    """
    from llm_jp_modernbert.modeling.configuration_llm_jp_modernbert import LlmJpModernBertConfig

    _registered_configs()["modernbert"] = LlmJpModernBertConfig


def unregister_for_modernbert() -> None:
    """Undo `register_for_modernbert`: `modernbert` checkpoints load as transformers' own classes again."""
    _registered_configs().pop("modernbert", None)


def _registered_configs() -> dict[str, Any]:
    """What `AutoConfig.register` fills; it outranks the table of names, but refuses to replace a known model type."""
    return importlib.import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING._extra_content

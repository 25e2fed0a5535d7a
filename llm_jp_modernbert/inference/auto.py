"""Lazy registration with transformers' Auto classes.

`import llm_jp_modernbert` registers the model, but must not import torch, so that `--help` is instant. The public
`AutoModel.register` needs the classes themselves, and our modeling module cannot be imported while transformers
executes `modeling_auto`, which that module imports. So class names are entered in the private tables in which
transformers keeps the names of its own classes, right after the module that defines a table has been executed.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

from llm_jp_modernbert.modeling.custom_code import CONFIG, HEADS

MODEL_TYPE = "llm-jp-modernbert"


def _add_config(auto: ModuleType) -> None:
    auto.CONFIG_MAPPING_NAMES[MODEL_TYPE] = CONFIG
    auto.CONFIG_MAPPING._mapping[MODEL_TYPE] = CONFIG
    _use_this_package(auto.CONFIG_MAPPING)


def _add_models(auto: ModuleType) -> None:
    for auto_class, head in HEADS.items():
        _add_class(getattr(auto, auto_class)._model_mapping, head)


def _add_tokenizer(auto: ModuleType) -> None:
    # As for transformers' ModernBERT, tokenizer.json is loaded whatever class tokenizer_config.json names:
    # `LlmJpTokenizer` saves a plain fast tokenizer.
    _add_class(auto.TOKENIZER_MAPPING, "TokenizersBackend")
    auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS.add(MODEL_TYPE)


def _add_class(mapping: Any, class_name: str) -> None:
    mapping._config_mapping[MODEL_TYPE] = CONFIG
    mapping._reverse_config_mapping[CONFIG] = MODEL_TYPE
    mapping._model_mapping[MODEL_TYPE] = class_name
    _use_this_package(mapping)


def _use_this_package(mapping: Any) -> None:
    """Makes transformers look names up in this package instead of `transformers.models.llm_jp_modernbert`."""
    mapping._modules[MODEL_TYPE.replace("-", "_")] = sys.modules["llm_jp_modernbert"]


_TABLES: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": _add_config,
    "transformers.models.auto.modeling_auto": _add_models,
    "transformers.models.auto.tokenization_auto": _add_tokenizer,
}


class _TableFinder(MetaPathFinder):
    """Finds the modules in `_TABLES` as Python does, but loads them with `_TableLoader`."""

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
    """Register this package's classes with the Auto classes, now or when transformers' tables are imported."""
    for name, add in _TABLES.items():
        if name in sys.modules:
            add(sys.modules[name])
    if not any(isinstance(finder, _TableFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TableFinder())


def register_for_modernbert() -> None:
    """Let `AutoModel*.from_pretrained` return this package's classes for every `modernbert` checkpoint.

    Such models are saved as `modernbert` checkpoints again. A configuration created without a checkpoint
    (`AutoConfig.for_model("modernbert")`) has this package's defaults and model type instead.
    Call `unregister_for_modernbert` to undo it.
    """
    from transformers import CONFIG_MAPPING

    from llm_jp_modernbert.modeling.configuration_llm_jp_modernbert import LlmJpModernBertConfig

    # `AutoConfig.register` refuses a class whose model_type differs.
    CONFIG_MAPPING.register("modernbert", LlmJpModernBertConfig, exist_ok=True)


def unregister_for_modernbert() -> None:
    """Undo `register_for_modernbert`: `modernbert` checkpoints load as transformers' own classes again."""
    from transformers import CONFIG_MAPPING, ModernBertConfig

    CONFIG_MAPPING.register("modernbert", ModernBertConfig, exist_ok=True)


@contextmanager
def registered_for_modernbert() -> Iterator[None]:
    """`register_for_modernbert` inside a `with` block; afterwards, the caller's registration is restored."""
    from transformers import CONFIG_MAPPING

    before = CONFIG_MAPPING["modernbert"]
    register_for_modernbert()
    try:
        yield
    finally:
        CONFIG_MAPPING.register("modernbert", before, exist_ok=True)

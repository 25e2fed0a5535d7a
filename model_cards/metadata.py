"""The YAML block of a model card, and results in the Hub's own files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

    from llm_jp_modernbert.evaluation.report.results import Row

    from .about import About

_HUB_TASKS = {
    "fill-mask": "fill-mask",
    "fill-mask-published-tokenizer": "fill-mask",
    "pseudo-perplexity": "fill-mask",
    "retrieval": "sentence-similarity",
    "alignment-uniformity": "sentence-similarity",
    "similarity": "sentence-similarity",
    "jsts": "sentence-similarity",
    "jnli": "text-classification",
    "jcola": "text-classification",
    "marc-ja": "text-classification",
    "jcommonsenseqa": "multiple-choice",
    "jsquad": "question-answering",
    "ner": "token-classification",
}
_REPOSITORY = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(/(?P<config>[\w.-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SELECTION = ("context", "train_files", "selected_on", "learning_rate", "epochs", "train_examples")


def metadata(about: About) -> ModelCardData:
    """The metadata of a card, by the Hub's names."""
    from huggingface_hub import ModelCardData

    tags = ["modernbert", "fill-mask", "masked-lm"]
    tags += ["japanese"] if "ja" in about.languages else []
    tags += ["long-context"] if int(about.config.get("max_position_embeddings", 0)) > 4096 else []
    tags += ["sentence-transformers", "sentence-similarity"] if about.exports.sentence_transformers else []
    tags += ["onnx"] if about.exports.onnx else []
    tags += ["custom_code"] if about.format == "native" else []
    given: dict[str, Any] = {
        "language": list(about.languages),
        "license": about.license,
        "library_name": "transformers",
        "tags": tags,
        "datasets": list(about.datasets) or None,
        "base_model": about.base_model,
        "pipeline_tag": "fill-mask",
    }
    mask = about.tokenizer.get("mask_token")
    if mask and "ja" in about.languages:
        given["mask_token"] = mask
        given["widget"] = [{"text": f"今日のご飯は{mask}である。"}]
    emissions = [stage["emissions_kg"] for stage in about.stages if stage.get("emissions_kg") is not None]
    # A part of the training would pass for the whole of it.
    if emissions and len(emissions) == len(about.stages):
        hardware = {stage["hardware"]["device"]: None for stage in about.stages if stage.get("hardware")}
        given["co2_eq_emissions"] = {
            "emissions": 1000 * sum(emissions),
            "source": "CodeCarbon",
            "training_type": "pre-training",
            **({"hardware_used": ", ".join(hardware)} if hardware else {}),
        }
    results = [_eval_result(row, about) for row in about.rows if row.value is not None]
    return ModelCardData(**given, model_name=about.name if results else None, eval_results=results or None)


def eval_result_files(about: About) -> dict[str, str]:
    """Results in the Hub's newer form, `.eval_results/*.yaml`, for those measured on a revision of a Hub dataset.

    Returns:
        Contents by path in the release, one file for each dataset.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    by_dataset: dict[str, list[EvalResultEntry]] = {}
    for row in about.rows:
        named = _REPOSITORY.fullmatch(row.dataset)
        if row.value is None or row.subset or named is None or not _COMMIT.fullmatch(row.dataset_revision):
            continue
        entry = EvalResultEntry(
            dataset_id=named["id"],
            task_id=f"{row.task}-{row.metric}",
            value=row.value,
            dataset_revision=row.dataset_revision,
            source_url=about.source.url if about.source else None,
            source_name=about.source.name if about.source else None,
            notes=", ".join(_about_row(row, about)),
        )
        by_dataset.setdefault(named["id"], []).append(entry)
    return {
        f".eval_results/{dataset.replace('/', '--')}.yaml": yaml.safe_dump(
            eval_result_entries_to_yaml(entries), allow_unicode=True, sort_keys=False
        )
        for dataset, entries in by_dataset.items()
    }


def _eval_result(row: Row, about: About) -> EvalResult:
    from huggingface_hub import EvalResult

    named = _REPOSITORY.fullmatch(row.dataset)
    counted = {"examples": row.examples} if row.examples else {}
    return EvalResult(
        task_type=_HUB_TASKS.get(row.task, row.task),
        dataset_type=named["id"] if named else row.dataset,
        dataset_name=row.dataset,
        dataset_config=named["config"] if named else None,
        dataset_split=row.split or None,
        dataset_revision=row.dataset_revision or None,
        metric_type=row.metric,
        metric_value=row.value,
        metric_name=f"{row.task} {row.metric} ({', '.join(_about_row(row, about))})",
        metric_args={**({} if about.source else {"seed": row.seed}), **counted, **shown_settings(row)},
        source_name=about.source.name if about.source else None,
        source_url=about.source.url if about.source else None,
    )


def _about_row(row: Row, about: About) -> Sequence[str]:
    # Others do not tell their seeds.
    seed = [] if about.source else [f"seed {row.seed}"]
    return [*([row.subset] if row.subset else []), f"{row.protocol} protocol", *seed]


def shown_settings(row: Row) -> dict[str, Any]:
    """Settings and selected grid point of a result, without empty values and local directories."""
    # The subset of a part names its context.
    own = {name: getattr(row, name) for name in _SELECTION if name != "context" or not row.subset}
    settings = {**row.settings, **{name: value for name, value in own.items() if value}}
    plain = json.loads(json.dumps(settings, default=str))
    return {key: _without_folders(value) for key, value in plain.items() if value is not None}


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    if isinstance(value, str) and value.startswith(("/", "~", "./", "../")):
        return value.rstrip("/").rsplit("/", 1)[-1]
    return value

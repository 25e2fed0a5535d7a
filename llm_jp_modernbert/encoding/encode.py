"""The command `encode`: texts → vectors, scores, candidates or labels in Parquet files.

`accelerate launch -m llm_jp_modernbert.encoding.encode MODEL INPUT… --out DIR` uses several processes or GPUs. They
share nothing but the directory, so any number of commands may also be started by hand.
"""

from __future__ import annotations

import os
from pathlib import Path

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.references import ModelReference
from llm_jp_modernbert.core.versions import library_versions

from .folder import Counts, Folder
from .inputs import Columns, open_inputs
from .options import EncodeOptions

_SCHEMA = 1
_LIBRARIES = (
    "llm-jp-modernbert",
    "torch",
    "transformers",
    "tokenizers",
    "sentence-transformers",
    "onnxruntime",
    "openvino",
    "pyarrow",
)
# Options that only apply with one kind of result; "" for vectors.
_OPTIONS_OF = {
    "": ("prompt", "pooling", "dimensions", "no_normalize", "precision"),
    "scores": ("seed",),
    "fill_mask": ("top_k",),
    "classify": ("pair_column",),
}


def encode(options: EncodeOptions) -> Counts:
    """Computes all shards that are not finished yet.

    Args:
        options: options of the command.

    Returns:
        The counts of all shards.

    Raises:
        UsageError: an option, the model or the inputs cannot be used, or the directory has other settings.
    """
    check_options(options)
    columns = Columns(options.text_column, options.pair_column, options.id_column)
    for name in options.inputs:
        if options.out.resolve().is_relative_to(Path(name).resolve()):
            raise UsageError(f"--out {options.out} is in the input {name}, so a rerun would read it. Name another.")
    inputs = open_inputs(options.inputs, columns, options.split, options.config_name)
    inputs.check()
    share_threads()
    from llm_jp_modernbert.inference.encoder.encoder import load_encoder
    from llm_jp_modernbert.inference.loading import model_revision

    from .jobs import job_of
    from .run import Run

    reference = ModelReference.parse(options.model)
    encoder = load_encoder(options.model, options.backend, options.dtype, local_device(options.device))
    job = job_of(encoder, options)
    folder = Folder(options.out)
    folder.begin(
        {
            "schema": _SCHEMA,
            "model": str(reference),
            "revision": model_revision(reference),
            "settings": {
                "job": type(job).__name__,
                **job.settings(),
                "backend": encoder.backend,
                "dtype": encoder.dtype,
                "rows_per_shard": options.rows_per_shard,
                "text_column": options.text_column,
                "pair_column": options.pair_column,
                "id_column": options.id_column,
            },
            "inputs": [
                {"name": source.name, "rows": source.rows, "fingerprint": source.fingerprint}
                for source in inputs.sources
            ],
            "calibration": None,
            "versions": library_versions(_LIBRARIES),
            "results": None,
        }
    )
    run = Run(options, inputs, job, folder)
    run.calibrate()
    run.work()
    return run.finish()


def check_options(options: EncodeOptions) -> None:
    """Raises `UsageError` if options exclude each other."""
    jobs = [name for name in _OPTIONS_OF if name and getattr(options, name)]
    if len(jobs) > 1:
        raise UsageError(f"{' and '.join(map(_option, jobs))} exclude each other. Give one of them.")
    job = jobs[0] if jobs else ""
    for other, names in _OPTIONS_OF.items():
        for name in names if other != job else ():
            if getattr(options, name) != EncodeOptions.__dataclass_fields__[name].default:
                needs = f"only applies with {_option(other)}" if other else f"does not apply with {_option(job)}"
                raise UsageError(f"{_option(name)} {needs}. Drop it.")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def local_device(device: str | None) -> str | None:
    """The device of this process: with several processes on a machine with GPUs, each has its own."""
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device is None and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        import torch

        if torch.cuda.is_available():
            return f"cuda:{rank % torch.cuda.device_count()}"
    return device


def share_threads() -> None:
    """Gives each of several processes on a machine its share of the CPU's threads, unless OMP_NUM_THREADS does."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(max(1, torch.get_num_threads() // processes))


def main() -> None:
    """Entry point of `accelerate launch -m llm_jp_modernbert.encoding.encode …`."""
    from llm_jp_modernbert.core.entry_points import run_command

    run_command("encode")


if __name__ == "__main__":
    main()

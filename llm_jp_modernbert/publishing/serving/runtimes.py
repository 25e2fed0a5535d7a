"""The runtimes that `serve-check` knows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Runtime:
    """A program that people serve models with.

    Attributes:
        name: its name in tables and for `--runtime`.
        probe: its script in `probes/`; `.mjs` runs in node.
        install: the way out if it is not installed.
        fix: the way out if its outputs differ.
        tolerance: allowed difference from torch, as a share of the largest value of an output.
    """

    name: str
    probe: str
    install: str
    fix: str
    tolerance: float = 1e-3

    @property
    def is_python(self) -> bool:
        """Whether a Python interpreter runs the probe."""
        return self.probe.endswith(".py")


RUNTIMES = (
    Runtime(
        "transformers",
        "hf_transformers.py",
        "pip install transformers torch",
        "Release the model again: config.json must have the settings of both generations of transformers.",
    ),
)

"""Theta warm-up: the RoPE theta of the global layers moves from that of `init_from` to that of the recipe."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState

from .recipe.arguments import PretrainingArguments


class ThetaWarmupCallback(TrainerCallback):
    """Sets the theta of the global layers before every step of the warm-up.

    It moves geometrically, because RoPE's wavelengths are powers of it. The model's configuration always has the theta
    of the latest step, so that checkpoints are saved with it.

    Args:
        model: the model, whose configuration has the theta of `init_from`.
        recipe: the recipe, with `theta_warmup_steps` above 0.

    Attributes:
        start: theta of `init_from`.
    """

    def __init__(self, model: PreTrainedModel, recipe: PretrainingArguments) -> None:
        settings: Any = recipe.model
        self.start, self._end = float(model.config.global_rope_theta), float(settings["global_rope_theta"])
        self._model, self._steps = model, recipe.theta_warmup_steps

    def theta(self, step: int) -> float:
        """The theta of the step after a number of completed ones."""
        if step + 1 >= self._steps:
            return self._end
        return self.start * (self._end / self.start) ** ((step + 1) / self._steps)

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Sets the theta of the step."""
        theta = self.theta(state.global_step)
        if self._model.config.global_rope_theta != theta:
            self._model.config.global_rope_theta = theta
            rotary: Any = self._model.base_model.rotary_emb
            rotary.reset_parameters()

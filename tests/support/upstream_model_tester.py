"""The classes that `tests/upstream_common.py` tests with transformers' common tests.

Run that script: it makes transformers' own tests importable, which this file imports.
"""

from __future__ import annotations

import inspect
import os
import unittest
from typing import Any

import torch
import transformers
from transformers.processing_utils import Unpack
from transformers.testing_utils import torch_device
from transformers.utils import TransformersKwargs
from transformers_common_tests.test_configuration_common import ConfigTester
from transformers_common_tests.test_modeling_common import ModelTesterMixin

import llm_jp_modernbert

PEER = os.environ.get("UPSTREAM_COMMON_CLASSES") == "peer"


def _class(name: str) -> Any:
    return getattr(transformers, f"ModernBert{name}") if PEER else getattr(llm_jp_modernbert, f"LlmJpModernBert{name}")


class TinyModel:
    """A tiny configuration and a batch, under the names that the common tests expect."""

    is_training = True
    batch_size = 5
    seq_length = 11
    vocab_size = 99
    hidden_size = 64
    num_hidden_layers = 2
    num_attention_heads = 4
    num_choices = 4

    def get_config(self) -> Any:
        """Return a configuration of one global and one local layer, whose window is shorter than the sequences."""
        return _class("Config")(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=37,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            global_attn_every_n_layers=2,
            local_attention=4,
            max_position_embeddings=512,
            pad_token_id=0,
            bos_token_id=1,
            cls_token_id=1,
            eos_token_id=2,
            sep_token_id=2,
            # Some tests exceed max_position_embeddings.
            **({} if PEER else {"allow_longer_input": True}),
        )

    def inputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return token ids without padding ids, and a mask that pads some rows on the right."""
        input_ids = torch.randint(3, self.vocab_size, (self.batch_size, self.seq_length), device=torch_device)
        attention_mask = torch.ones_like(input_ids)
        for row in range(self.batch_size):
            attention_mask[row, self.seq_length - row :] = 0
        return input_ids, attention_mask

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, torch.Tensor]]:
        """Return the configuration and the batch of all common tests."""
        input_ids, attention_mask = self.inputs()
        return self.get_config(), {"input_ids": input_ids, "attention_mask": attention_mask}


class TestCommon(ModelTesterMixin, unittest.TestCase):
    all_model_classes = tuple(
        _class(name)
        for name in (
            "Model",
            "ForMaskedLM",
            "ForSequenceClassification",
            "ForTokenClassification",
            "ForQuestionAnswering",
            "ForMultipleChoice",
        )
    )
    model_split_percents = (0.5, 0.8, 0.9)
    # Required for source files without a copyright year.
    test_can_init_all_missing_weights_before_2023 = True

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        # The tests read from this annotation, which must not be a string, whether a model returns attention weights.
        for model_class in cls.all_model_classes:
            inspect.unwrap(model_class.forward).__annotations__["kwargs"] = Unpack[TransformersKwargs]

    def setUp(self) -> None:
        self.model_tester = TinyModel()
        self.config_tester = ConfigTester(self, config_class=_class("Config"), hidden_size=32)

    @unittest.skipUnless(
        PEER, "Models without a requested backend choose one per batch: the setting is None, not sdpa."
    )
    def test_sdpa_can_dispatch_non_composite_models(self) -> None:
        super().test_sdpa_can_dispatch_non_composite_models()

    def test_config(self) -> None:
        self.config_tester.run_common_tests()

    def test_model(self) -> None:
        self._check_shapes("Model", {}, last_hidden_state=(5, 11, 64))

    def test_for_masked_lm(self) -> None:
        self._check_shapes("ForMaskedLM", {"labels": torch.ones(5, 11)}, logits=(5, 11, 99), loss=())

    def test_for_sequence_classification(self) -> None:
        self._check_shapes("ForSequenceClassification", {"labels": torch.ones(5)}, logits=(5, 2), loss=())

    def test_for_token_classification(self) -> None:
        self._check_shapes("ForTokenClassification", {"labels": torch.ones(5, 11)}, logits=(5, 11, 2), loss=())

    def test_for_question_answering(self) -> None:
        labels = {"start_positions": torch.ones(5), "end_positions": torch.full((5,), 3)}
        shapes = {"start_logits": (5, 11), "end_logits": (5, 11), "loss": ()}
        self._check_shapes("ForQuestionAnswering", labels, **shapes)

    def test_for_multiple_choice(self) -> None:
        self._check_shapes("ForMultipleChoice", {"labels": torch.ones(5)}, logits=(5, 4), loss=())

    def _check_shapes(self, name: str, labels: dict[str, torch.Tensor], **shapes: tuple[int, ...]) -> None:
        """Eager and sdpa outputs have the given shapes and are equal at every token."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = _class(name)(config).to(torch_device).eval()
        inputs = self._prepare_for_class(inputs, type(model))
        labels = {key: value.long().to(torch_device) for key, value in labels.items()}
        outputs = {}
        for implementation in ("eager", "sdpa"):
            model.set_attn_implementation(implementation)
            with torch.no_grad():
                outputs[implementation] = model(**inputs, **labels)
        for key, shape in shapes.items():
            eager, sdpa = outputs["eager"][key], outputs["sdpa"][key]
            assert tuple(eager.shape) == shape
            if shape[:2] == (5, 11):
                tokens = inputs["attention_mask"].bool()
                eager, sdpa = eager[tokens], sdpa[tokens]
            torch.testing.assert_close(sdpa, eager, atol=1e-5, rtol=1e-4)

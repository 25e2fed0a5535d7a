"""Models, real data and options that the cases share."""

from __future__ import annotations

import copy
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
import typer
from transformers import ModernBertForMaskedLM

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.training.recipe.shapes import model_config

from .measure import COMPILED, OURS

VOCABULARY = 99_574  # of llm-jp-tokenizer v3.0
FIRST_WORD = 8  # the first id that is not a special token
DATA_VARIABLE = "LLM_JP_MODERNBERT_TEST_DATA"

Shape = Annotated[Literal["nano", "small", "base"], typer.Option(help="Shape of the models.")]
Dtype = Annotated[Literal["float32", "bfloat16"], typer.Option(help="Data type of weights and activations.")]
Compiled = Annotated[bool, typer.Option(help="Also measure this library with compiled layers.")]
Tokenizer = Annotated[str, typer.Option(help="Tokenizer: a directory, repository or SentencePiece .model file.")]


def whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """Parse the value of an option: comma-separated positive integers."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"{option} {text}: expected comma-separated positive integers.")
    return tuple(int(part) for part in parts)


class Models:
    """Masked language models of one shape with the same random weights; each is built on first use.

    Their attribute `model` is the encoder. Every third layer is global, beginning with the first.
    """

    def __init__(
        self, shape: str, vocabulary: int | None = None, layers: int | None = None, device: str | None = None
    ) -> None:
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        changes = {} if layers is None else {"num_hidden_layers": layers}
        self.config: Any = model_config({"shape": shape, **changes}, vocabulary or VOCABULARY)
        self.config.checkpoint_format = "plain"
        self.settings: dict[str, Any] = {"shape": shape, "layers": self.config.num_hidden_layers}
        self._ours: dict[str, Any] = {}
        self._compiled: dict[str, Any] = {}
        self._peers: dict[str, Any] = {}

    def ours(self, dtype: str) -> Any:
        """This library's model."""
        if dtype not in self._ours:
            if dtype == "float32":
                torch.manual_seed(0)
                self._ours[dtype] = LlmJpModernBertForMaskedLM(self.config).to(self.device).eval()
            else:
                self._ours[dtype] = copy.deepcopy(self.ours("float32")).to(getattr(torch, dtype))
        return self._ours[dtype]

    def candidates(self, dtype: str, compiled: bool) -> dict[str, Any]:
        """This library's model and, if `compiled`, the same model with compiled layers, by candidate name."""
        ours = self.ours(dtype)
        if not compiled:
            return {OURS: ours}
        if dtype not in self._compiled:
            self._compiled[dtype] = _with_shared_weights(ours)
            self._compiled[dtype].compile_layers()
        return {OURS: ours, COMPILED: self._compiled[dtype]}

    def peer(self, dtype: str) -> Any:
        """Transformers' model with sdpa attention."""
        if dtype not in self._peers:
            plain: Any = ModernBertForMaskedLM.config_class
            config = plain(**self.config.to_dict())
            # On the meta device, since transformers' initialization takes longer than the measurements.
            with torch.device("meta"):
                model: Any = ModernBertForMaskedLM._from_config(config, attn_implementation="sdpa")
            model = model.to_empty(device=self.device).to(getattr(torch, dtype)).eval()
            model.load_state_dict(self.ours(dtype).state_dict())
            model.tie_weights()
            # The frequencies are not part of the state dict.
            model.model.rotary_emb = type(model.model.rotary_emb)(config).to(self.device)
            self._peers[dtype] = model
        return self._peers[dtype]

    def peer_variants(self, dtype: str) -> dict[str, Any]:
        """Faster variants of transformers' model by name, with shared weights: compiled, and with flash-attn."""
        variants = {"compiled": _with_shared_weights(self.peer(dtype))}
        variants["compiled"].compile(dynamic=True)
        if self.device == "cuda" and find_spec("flash_attn") is not None:
            variants["flash-attn"] = _with_shared_weights(self.peer(dtype))
            variants["flash-attn"].set_attn_implementation("flash_attention_2")
        return variants


def _with_shared_weights(model: Any) -> Any:
    """Copy a model without its weights: copies and their optimizer states would take much memory."""
    weights = (*model.parameters(), *model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in weights})


class RealData(NamedTuple):
    """A SentencePiece `.model` file and a folder of texts."""

    tokenizer: str
    corpus: str


def find_data(folder: Path | None) -> RealData | None:
    """Find real data in a folder, by default in the one that `LLM_JP_MODERNBERT_TEST_DATA` names, if any."""
    given = folder or os.environ.get(DATA_VARIABLE)
    if not given:
        return None
    tokenizers, corpus = sorted(Path(given).glob("tokenizer/*.model")), Path(given) / "corpus" / "manuals"
    if not tokenizers or not corpus.is_dir():
        raise UsageError(f"{given} lacks tokenizer/*.model or corpus/manuals/. Choose another folder with --data.")
    return RealData(str(tokenizers[0]), str(corpus))

"""Models and real data that the cases share."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import ModernBertForMaskedLM

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.loading import load_tokenizer
from llm_jp_modernbert.training.data.blocks import BlockMaker, BlockSettings
from llm_jp_modernbert.training.data.masking import Masking
from llm_jp_modernbert.training.data.sources import sources_of
from llm_jp_modernbert.training.data.stream import BatchStream
from llm_jp_modernbert.training.recipe.shapes import model_config

from .measure import COMPILED, OURS

VOCABULARY = 99_574
"""Size of the vocabulary of llm-jp-tokenizer v3.0."""
FIRST_WORD = 8
"""The first id that is not a special token."""
DATA_VARIABLE = "LLM_JP_MODERNBERT_TEST_DATA"
# Characters per packing block. The batch of a training case depends on it.
_BLOCK_CHARACTERS = 2_000_000


class Models:
    """Masked language models of one shape with the same random weights; each is built on first use.

    Their attribute `model` is the encoder.

    Args:
        shape: `nano`, `small` or `base`.
        vocabulary: size of the vocabulary.
        layers: number of layers, by default the shape's; every third layer is global, beginning with the first.
        device: torch device; by default a GPU if available.
    """

    def __init__(
        self, shape: str, vocabulary: int = VOCABULARY, layers: int | None = None, device: str | None = None
    ) -> None:
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        changes = {} if layers is None else {"num_hidden_layers": layers}
        self.config: Any = model_config({"shape": shape, **changes}, vocabulary)
        self.config.checkpoint_format = "plain"
        self.settings: dict[str, Any] = {"shape": shape, "layers": self.config.num_hidden_layers}
        self._ours: dict[torch.dtype, Any] = {}
        self._compiled: dict[torch.dtype, Any] = {}
        self._peers: dict[torch.dtype, Any] = {}

    def ours(self, dtype: torch.dtype) -> Any:
        """This library's model."""
        if dtype not in self._ours:
            if dtype == torch.float32:
                torch.manual_seed(0)
                self._ours[dtype] = LlmJpModernBertForMaskedLM(self.config).to(self.device).eval()
            else:
                self._ours[dtype] = copy.deepcopy(self.ours(torch.float32)).to(dtype)
        return self._ours[dtype]

    def candidates(self, dtype: torch.dtype, compiled: bool) -> dict[str, Any]:
        """This library's model and, if `compiled`, the same model with compiled layers, by candidate name."""
        ours = self.ours(dtype)
        if not compiled:
            return {OURS: ours}
        if dtype not in self._compiled:
            # Shared weights: a second copy and its optimizer state would slow candidates that need much memory.
            weights = (*ours.parameters(), *ours.buffers())
            self._compiled[dtype] = copy.deepcopy(ours, {id(tensor): tensor for tensor in weights})
            self._compiled[dtype].compile_layers()
        return {OURS: ours, COMPILED: self._compiled[dtype]}

    def peer(self, dtype: torch.dtype) -> Any:
        """Transformers' model with sdpa attention."""
        if dtype not in self._peers:
            plain: Any = ModernBertForMaskedLM.config_class
            config = plain(**self.config.to_dict())
            # On the meta device, since transformers' initialization takes longer than the measurements.
            with torch.device("meta"):
                model: Any = ModernBertForMaskedLM._from_config(config, attn_implementation="sdpa")
            model = model.to_empty(device=self.device).to(dtype).eval()
            model.load_state_dict(self.ours(dtype).state_dict())
            model.tie_weights()
            # The frequencies are not part of the state dict.
            model.model.rotary_emb = type(model.model.rotary_emb)(config).to(self.device)
            self._peers[dtype] = model
        return self._peers[dtype]


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a data type without the prefix `torch.`."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class RealData:
    """A tokenizer and a corpus.

    Attributes:
        tokenizer: path of a SentencePiece `.model` file.
        corpus: folder of texts.
    """

    tokenizer: str
    corpus: str


def find_data(folder: Path | None) -> RealData | None:
    """Find real data in a folder, by default in the one that `LLM_JP_MODERNBERT_TEST_DATA` names.

    Args:
        folder: contains `tokenizer/*.model`, of which the first by name is used, and `corpus/manuals/`.

    Returns:
        None if no folder is given.

    Raises:
        UsageError: the folder lacks one of them.
    """
    given = folder or os.environ.get(DATA_VARIABLE)
    if not given:
        return None
    tokenizers, corpus = sorted(Path(given).glob("tokenizer/*.model")), Path(given) / "corpus" / "manuals"
    if not tokenizers or not corpus.is_dir():
        raise UsageError(f"{given} lacks tokenizer/*.model or corpus/manuals/. Choose another folder with --data.")
    return RealData(str(tokenizers[0]), str(corpus))


def batch_stream(files: Sequence[str], tokenizer: str, length: int, rows: int, workers: int = 0) -> BatchStream:
    """The packed batches of a training run, with 30 % of the tokens masked.

    Args:
        files: texts or a tokenized corpus.
        tokenizer: directory, repository or SentencePiece model.
        length: tokens per row.
        rows: rows per batch.
        workers: loader processes.
    """
    loaded: Any = load_tokenizer(tokenizer)
    maker = BlockMaker(sources_of(list(files), "text"), BlockSettings(length, characters=_BLOCK_CHARACTERS), loaded)
    masking = Masking(loaded.mask_token_id, len(loaded), loaded.all_special_ids)
    return BatchStream(maker, masking, lambda step: rows, workers=workers)

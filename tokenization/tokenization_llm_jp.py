"""The llm-jp tokenizer in its encoder form."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, ClassVar

from tokenizers import Tokenizer
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast
from transformers.utils.hub import cached_file

from .conversion import read_sentencepiece
from .layout import ENCODER_SETTINGS, LEADING_IDS, check_layout, encoder_form, is_encoder_form, set_encoder_form

# A name that every transformers release knows, with nothing of this package at hand.
_SAVED_CLASS = "PreTrainedTokenizerFast"
_TOKENIZER_FILE = "tokenizer.json"
_CONFIG_FILE = "tokenizer_config.json"
_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


# No `__init__`: transformers then takes a saved tokenizer.json as it stands instead of building one anew.
class LlmJpTokenizer(PreTrainedTokenizerFast):
    """llm-jp-tokenizer v3 for masked language models: `CLS A SEP` and `CLS A SEP B SEP` (type ids 0…0 1…1).

    Unigram pieces with bytes for characters that no piece covers; nothing is normalised, so `decode` gives back the
    text, spaces and newlines included (only `▁`, U+2581, comes back as a space). The ids of a text are those of
    SentencePiece and of the published decoder tokenizer, also where the text begins with a space, a newline or `▁`.

    Differences from the tokenizer that was released with llm-jp-modernbert-base:

    * Text after a special token continues the text before it. There it began anew, with a `▁` that the model never saw
      in training: `今日のご飯は<MASK|LLM-jp>である。` now has the same pieces around the mask as the sentence has.
    * `truncation=True` cuts at 8192 tokens.

    The mask stands for a token together with the space before it, if that has one, and spaces beside a mask are kept
    as pieces: write `I<MASK|LLM-jp> tea`, not `I <MASK|LLM-jp> tea`, for the hidden `▁drink`.

    A text is one word to `word_ids()`, and so is each of its sections between special tokens. With
    `is_split_into_words=True` each word is a text of its own and begins with `▁`: right for words that spaces part.
    For Japanese give the text and use offsets. Offsets are those of the original text; a first piece `▁` alone, which
    stands for nothing there, has those of the first character.

    The saved form is a `tokenizer.json` that the tokenizers library, and transformers' own `AutoTokenizer`, load
    without this package.
    """

    # A function that stands in for `push_to_hub`, called as a method; set from above, since this folder stands alone.
    _hub_push: ClassVar[Callable[..., Any] | None] = None

    @classmethod
    def from_sentencepiece(cls, path: str | os.PathLike[str], **kwargs: Any) -> LlmJpTokenizer:
        """Builds the tokenizer from a SentencePiece model.

        Args:
            path: a `.model` file of llm-jp-tokenizer v3.
            **kwargs: arguments of the transformers tokenizer that are to differ, such as `model_max_length`.

        Raises:
            ValueError: if there is no such file, or it is no llm-jp SentencePiece model.
        """
        return cls._from_backend(encoder_form(read_sentencepiece(path)), kwargs)

    @classmethod
    def from_decoder(cls, source: str | os.PathLike[str], **kwargs: Any) -> LlmJpTokenizer:
        """Adapts the tokenizer of a causal llm-jp model (`<s> A`); its vocabulary and added tokens stay.

        Args:
            source: a repository such as `llm-jp/llm-jp-3-1.8b`, a directory with a tokenizer.json, or that file.
            **kwargs: where to find it (`revision`, `cache_dir`, `token`, `local_files_only`, `subfolder`, …), and
                arguments of the transformers tokenizer that are to differ, such as `model_max_length`.

        Raises:
            ValueError: if there is no tokenizer.json, or it is no llm-jp tokenizer.
        """
        hub_arguments = {name: kwargs.pop(name) for name in _HUB_ARGUMENTS if name in kwargs}
        backend = _read_backend(_find_file(os.fspath(source), hub_arguments))
        set_encoder_form(backend)
        return cls._from_backend(backend, kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *init_inputs: Any, **kwargs: Any
    ) -> LlmJpTokenizer:
        """Loads a saved tokenizer; a llm-jp tokenizer in another form, such as a causal model's, is adapted.

        Args:
            pretrained_model_name_or_path: a repository or a directory.
            *init_inputs: see `PreTrainedTokenizerBase.from_pretrained`.
            **kwargs: see `PreTrainedTokenizerBase.from_pretrained`.

        Raises:
            ValueError: if there is no tokenizer.json, or it is no llm-jp tokenizer.
        """
        source = os.fspath(pretrained_model_name_or_path)
        # Looked for first, since transformers speaks of slow tokenizers where it finds none.
        _find_file(source, {name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs})
        tokenizer = super().from_pretrained(pretrained_model_name_or_path, *init_inputs, **kwargs)
        _check_llm_jp(tokenizer.backend_tokenizer, source)
        roles = [role for role in ENCODER_SETTINGS if role.endswith("_token")]
        if is_encoder_form(tokenizer.backend_tokenizer) and all(getattr(tokenizer, role) for role in roles):
            return tokenizer
        # Its settings are those of another form as well (`bos_token`, no limit of length); only the caller's stay, and
        # special tokens that were added to it or are by the caller.
        known = (*_HUB_ARGUMENTS, *ENCODER_SETTINGS, "padding_side", "truncation_side")
        adapted = cls.from_decoder(
            pretrained_model_name_or_path, **{name: kwargs[name] for name in known if name in kwargs}
        )
        adapted.add_special_tokens({"extra_special_tokens": tokenizer.extra_special_tokens})
        return adapted

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """As transformers' `push_to_hub`; what is pushed loads without this package.

        Args:
            repo_id: `ORG/NAME` of the repository.
            **kwargs: those of transformers (`commit_message`, `private`, `token`, `revision`, …).
        """
        if self._hub_push is not None:
            return self._hub_push(repo_id, **kwargs)
        return super().push_to_hub(repo_id, **kwargs)

    def _save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        file_names: tuple[str, ...],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
    ) -> tuple[str, ...]:
        # Called by save_pretrained between writing tokenizer_config.json and uploading.
        config_file = os.path.join(save_directory, (f"{filename_prefix}-" if filename_prefix else "") + _CONFIG_FILE)
        with open(config_file, encoding="utf-8") as file:
            config = json.load(file)
        config["tokenizer_class"] = _SAVED_CLASS
        # Where this one was loaded from is nobody else's setting.
        for name in ("is_local", "local_files_only"):
            config.pop(name, None)
        with open(config_file, "w", encoding="utf-8") as file:
            json.dump(config, file, indent=2, sort_keys=True, ensure_ascii=False)
            file.write("\n")
        # Otherwise the last call's truncation and padding would be saved as everyone's default.
        self.backend_tokenizer.no_truncation()
        self.backend_tokenizer.no_padding()
        return super()._save_pretrained(save_directory, file_names, legacy_format, filename_prefix)

    @classmethod
    def _from_backend(cls, backend: Tokenizer, kwargs: dict[str, Any]) -> LlmJpTokenizer:
        return cls(tokenizer_object=backend, **{**ENCODER_SETTINGS, **kwargs})


def _find_file(source: str, hub_arguments: dict[str, Any]) -> str:
    if os.path.isfile(source):
        return source
    try:
        found = cached_file(source, _TOKENIZER_FILE, **hub_arguments)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{source!r} is no file, and no directory or repository with a {_TOKENIZER_FILE}: {reason} Give one that "
            "has it, or build the tokenizer from a SentencePiece file (LlmJpTokenizer.from_sentencepiece)."
        ) from error
    return str(found)


def _read_backend(path: str) -> Tokenizer:
    try:
        backend = Tokenizer.from_file(path)
    except Exception as error:  # the library raises the bare class
        raise ValueError(
            f"{path} is no {_TOKENIZER_FILE} of the tokenizers library ({error}). Get it again."
        ) from error
    _check_llm_jp(backend, path)
    return backend


def _check_llm_jp(backend: Tokenizer, source: str) -> None:
    if not isinstance(backend.model, Unigram):
        raise ValueError(
            f"{source} is a {type(backend.model).__name__} tokenizer, but llm-jp's is Unigram. Give a llm-jp-3 model."
        )
    size = backend.get_vocab_size()
    check_layout([str(backend.id_to_token(i)) for i in range(min(size, LEADING_IDS))], source)

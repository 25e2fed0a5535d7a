"""The llm-jp tokenizer in its encoder form."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import Encoding, Tokenizer
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast
from transformers.utils.hub import cached_file

from llm_jp_modernbert.core.errors import first_line
from llm_jp_modernbert.core.files import read_json
from llm_jp_modernbert.core.references import is_local_path

from .conversion import read_sentencepiece
from .layout import ENCODER_SETTINGS, LEADING_IDS, SPACE, check_layout, encoder_form, is_encoder_form, set_encoder_form

# A class that every transformers release has, so that loading does not need this package.
_SAVED_CLASS = "PreTrainedTokenizerFast"
_TOKENIZER_FILE = "tokenizer.json"
_CONFIG_FILE = "tokenizer_config.json"
_OTHER_SOURCE = (
    "Name one that has it, or build the tokenizer from a SentencePiece file (LlmJpTokenizer.from_sentencepiece)."
)
_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


# Without `__init__`, transformers loads a saved tokenizer.json unchanged instead of rebuilding it.
class LlmJpTokenizer(PreTrainedTokenizerFast):
    """llm-jp-tokenizer v3 for masked language models: `CLS A SEP` and `CLS A SEP B SEP` (type ids 0…0 1…1).

    A Unigram vocabulary with byte fallback. Text is not normalized, so `decode` restores it exactly, including spaces
    and newlines (except `▁`, U+2581, which becomes a space). The ids of a text equal those of SentencePiece and of the
    published decoder tokenizer.

    Differences from the tokenizer that was released with llm-jp-modernbert-base:

    * Text after a special token continues the text before it. The released tokenizer inserts a `▁` that the model
      never saw in training. Here `今日のご飯は<MASK|LLM-jp>である。` has the pieces of the sentence around the mask.
    * `truncation=True` truncates to 8192 tokens.

    A mask replaces a token including the space before it: write `I<MASK|LLM-jp> tea`, not `I <MASK|LLM-jp> tea`, for
    the token `▁drink`.

    In `word_ids()`, each section of the text between special tokens and unknown characters is one word. With
    `is_split_into_words=True`, each word is encoded separately and begins with `▁`, which suits languages with spaces
    between words; for Japanese, pass the text and use offsets.

    Offsets refer to the original text. Each byte of an unknown character has the offsets of that character, and a
    leading piece `▁` the empty span `(0, 0)`, because no character of the text belongs to it.

    The saved `tokenizer.json` is loaded by the tokenizers library and by `AutoTokenizer` without this package. Its
    only difference: as with XLM-RoBERTa, a leading piece `▁` has the offsets of the first character.
    """

    # Replaces `push_to_hub` as a method; set by the package that knows the Hub.
    _hub_push: ClassVar[Callable[..., Any] | None] = None

    @classmethod
    def from_sentencepiece(cls, path: str | os.PathLike[str], **kwargs: Any) -> LlmJpTokenizer:
        """Builds the tokenizer from a SentencePiece model.

        Args:
            path: a `.model` file of llm-jp-tokenizer v3.
            **kwargs: arguments of the transformers tokenizer to override, such as `model_max_length`.

        Raises:
            ValueError: the file is missing or not an llm-jp SentencePiece model.
        """
        return cls._from_backend(encoder_form(read_sentencepiece(path)), kwargs)

    @classmethod
    def from_decoder(cls, source: str | os.PathLike[str], **kwargs: Any) -> LlmJpTokenizer:
        """Converts the tokenizer of a causal llm-jp model (`<s> A`); its vocabulary and added tokens are unchanged.

        Args:
            source: a repository such as `llm-jp/llm-jp-3-1.8b`, a directory with a tokenizer.json, or that file.
            **kwargs: arguments of the download (`revision`, `cache_dir`, `token`, `local_files_only`, `subfolder`, …)
                and arguments of the transformers tokenizer to override, such as `model_max_length`.

        Raises:
            ValueError: the tokenizer.json is missing or not of an llm-jp tokenizer.
        """
        hub_arguments = {name: kwargs.pop(name) for name in _HUB_ARGUMENTS if name in kwargs}
        backend = _read_backend(_find_file(os.fspath(source), hub_arguments))
        set_encoder_form(backend)
        return cls._from_backend(backend, kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *init_inputs: Any, **kwargs: Any
    ) -> LlmJpTokenizer:
        """Loads a saved tokenizer; an llm-jp tokenizer in another form, such as a causal model's, is converted.

        Args:
            pretrained_model_name_or_path: a repository or a directory.
            *init_inputs: see `PreTrainedTokenizerBase.from_pretrained`.
            **kwargs: see `PreTrainedTokenizerBase.from_pretrained`.

        Raises:
            ValueError: the tokenizer.json is missing or not of an llm-jp tokenizer, or another file is damaged.
        """
        source = os.fspath(pretrained_model_name_or_path)
        # Checked first: the error of transformers would be about slow tokenizers.
        file = _find_file(source, {name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs})
        try:
            tokenizer = super().from_pretrained(pretrained_model_name_or_path, *init_inputs, **kwargs)
        except Exception as error:  # files with unexpected types may raise anything
            _check_files(Path(file))
            raise ValueError(
                f"{source}: the tokenizer cannot be loaded ({first_line(error)}). Correct its {_CONFIG_FILE} or other "
                "files of the tokenizer."
            ) from error
        _check_llm_jp(tokenizer.backend_tokenizer, source)
        roles = [role for role in ENCODER_SETTINGS if role.endswith("_token")]
        if is_encoder_form(tokenizer.backend_tokenizer) and all(getattr(tokenizer, role) for role in roles):
            # An earlier version may have saved it.
            set_encoder_form(tokenizer.backend_tokenizer)
            return tokenizer
        # Settings of the other form (`bos_token`, no maximum length) are dropped, except those of the caller.
        known = (*_HUB_ARGUMENTS, *ENCODER_SETTINGS, "padding_side", "truncation_side")
        adapted = cls.from_decoder(
            pretrained_model_name_or_path, **{name: kwargs[name] for name in known if name in kwargs}
        )
        adapted.add_special_tokens({"extra_special_tokens": tokenizer.extra_special_tokens})
        return adapted

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """Like `PreTrainedTokenizerBase.push_to_hub`; the pushed files load without this package.

        Args:
            repo_id: `ORG/NAME` of the repository.
            **kwargs: arguments of transformers (`commit_message`, `private`, `token`, `revision`, …).
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
        # save_pretrained calls this after writing tokenizer_config.json and before uploading.
        config_file = os.path.join(save_directory, (f"{filename_prefix}-" if filename_prefix else "") + _CONFIG_FILE)
        with open(config_file, encoding="utf-8") as file:
            config = json.load(file)
        config["tokenizer_class"] = _SAVED_CLASS
        # Settings of this machine.
        for name in ("is_local", "local_files_only"):
            config.pop(name, None)
        with open(config_file, "w", encoding="utf-8") as file:
            json.dump(config, file, indent=2, sort_keys=True, ensure_ascii=False)
            file.write("\n")
        # The backend holds truncation and padding of the last call, which must not become the saved default.
        self.backend_tokenizer.no_truncation()
        self.backend_tokenizer.no_padding()
        return super()._save_pretrained(save_directory, file_names, legacy_format, filename_prefix)

    def _convert_encoding(self, encoding: Encoding, *args: Any, **kwargs: Any) -> Any:
        # The library gives a character that it inserts the offsets of its neighbor.
        return super()._convert_encoding(_without_inserted_spaces(encoding), *args, **kwargs)

    @classmethod
    def _from_backend(cls, backend: Tokenizer, kwargs: dict[str, Any]) -> LlmJpTokenizer:
        return cls(tokenizer_object=backend, **{**ENCODER_SETTINGS, **kwargs})


def _without_inserted_spaces(encoding: Encoding) -> Encoding:
    """The encoding with the offsets `(0, 0)` for each piece `▁` that covers no character of the text."""
    parts = [encoding, *encoding.overflowing]
    inserted = [_inserted_spaces(part) for part in parts]
    if not any(inserted):
        return encoding
    # Offsets of an `Encoding` can be changed in its pickled form only.
    state = json.loads(encoding.__getstate__())
    for part, places in zip([state, *state["overflowing"]], inserted, strict=True):
        for place in places:
            part["offsets"][place] = [0, 0]
    corrected = Encoding()
    corrected.__setstate__(json.dumps(state).encode())
    return corrected


def _inserted_spaces(encoding: Encoding) -> list[int]:
    """Places of the pieces `▁` at the start of a text, or of a word of a text that is given as words."""
    tokens, offsets = encoding.tokens, encoding.offsets
    starts = [place for place, token in enumerate(tokens) if token == SPACE and offsets[place] == (0, 1)]
    if not starts:
        return []
    sources = list(zip(encoding.sequence_ids, encoding.word_ids, strict=True))
    return [place for place in starts if place - 1 not in starts or sources[place - 1] != sources[place]]


def _find_file(source: str, hub_arguments: dict[str, Any]) -> str:
    if os.path.isfile(source):
        return source
    if is_local_path(source):
        path = os.path.join(source, hub_arguments.get("subfolder") or "", _TOKENIZER_FILE)
        if not os.path.isfile(path):
            raise ValueError(f"{path if os.path.isdir(source) else source}: no such file. {_OTHER_SOURCE}")
        return path
    try:
        return str(cached_file(source, _TOKENIZER_FILE, **hub_arguments))
    except OSError as error:
        raise ValueError(
            f"{source!r} is not a file, and not a directory or repository with a {_TOKENIZER_FILE}: "
            f"{first_line(error)} {_OTHER_SOURCE}"
        ) from error


def _read_backend(path: str) -> Tokenizer:
    try:
        backend = Tokenizer.from_file(path)
    except Exception as error:  # the library raises the bare class
        raise ValueError(
            f"{path} is not a {_TOKENIZER_FILE} of the tokenizers library ({error}). Download it again."
        ) from error
    _check_llm_jp(backend, path)
    return backend


def _check_files(tokenizer_file: Path) -> None:
    """Raises a `ValueError` with the name of the file of a tokenizer that is damaged."""
    for path in sorted(tokenizer_file.parent.glob("*token*.json")):
        read_json(path, dict[str, Any])
    _read_backend(str(tokenizer_file))


def _check_llm_jp(backend: Tokenizer, source: str) -> None:
    if not isinstance(backend.model, Unigram):
        raise ValueError(
            f"{source} is a {type(backend.model).__name__} tokenizer, but llm-jp's is Unigram. Name an llm-jp-3 model."
        )
    size = backend.get_vocab_size()
    check_layout([str(backend.id_to_token(i)) for i in range(min(size, LEADING_IDS))], source)

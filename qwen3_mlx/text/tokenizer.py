"""Text to token ids and back: Qwen3's byte-level BPE, with the chat markers looked up by name.

Uses the `tokenizers` library directly. Its Rust code parses the 11 MB tokenizer.json once; the
bytes of a single id are looked up on first use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from qwen3_mlx.errors import ConfigError, OptionError, shown
from qwen3_mlx.files import LFS, is_lfs_pointer
from qwen3_mlx.text import vocab_and_merges
from qwen3_mlx.text.end_tokens import declared_eos

if TYPE_CHECKING:
    import tokenizers

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
TOOL_OPEN, TOOL_CLOSE = "<tool_call>", "</tool_call>"
_MARKERS = (
    *(IM_START, IM_END, THINK_OPEN, THINK_CLOSE, TOOL_OPEN, TOOL_CLOSE),
    *("<|endoftext|>", "<tool_response>", "</tool_response>"),
)


LONG = 10_000
"""Characters from which a text is encoded by the library's call for batches, which lets other
threads run meanwhile: its call for one text holds Python's lock, 0.2 s for 120,000 characters."""

_LARGEST = 2**28  # most bytes of a tokenizer.json; Qwen3's has 11 MB
_KINDS = {
    "decoder": ("ByteLevel",),
    "model": ("BPE",),
    "normalizer": ("NFC", "NoneType"),
    "pre_tokenizer": ("Split", "ByteLevel"),
}
_IDS = "whole numbers from 0 to 2**32 - 1"
_QWENS = "use the tokenizer.json of a Qwen3 checkpoint"
_DAMAGED = "the file is damaged or incomplete: download it again"


def _byte_alphabet() -> dict[str, int]:
    """Maps the characters of a byte-level BPE (GPT-2's) to the 256 bytes that they stand for.

    Printable Latin-1 bytes stand for themselves; the others are numbered from U+0100.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = sorted(set(range(256)) - set(visible))
    return {chr(b): b for b in visible} | {chr(0x100 + n): b for n, b in enumerate(hidden)}


_BYTES = _byte_alphabet()


class Tokenizer:
    """Encodes and decodes text; special tokens are recognised in the text and kept by `decode`.

    `think_open`, `think_close`, `tool_open`, `tool_close`, `im_start` and `im_end` are the ids of
    the chat markers, None if the vocabulary lacks one; the tokens in `eos_ids` end a turn.
    """

    def __init__(self, backend: tokenizers.Tokenizer, eos_ids: Iterable[int] = ()) -> None:
        """Wrap `backend`; ``<|im_end|>`` is added to `eos_ids`. Raises `ConfigError`."""
        _check_kinds(backend)
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._bytes: dict[int, bytes] = {}
        self.think_open = backend.token_to_id(THINK_OPEN)
        self.think_close = backend.token_to_id(THINK_CLOSE)
        self.tool_open = backend.token_to_id(TOOL_OPEN)
        self.tool_close = backend.token_to_id(TOOL_CLOSE)
        self.im_start = backend.token_to_id(IM_START)
        self.im_end = backend.token_to_id(IM_END)
        self.eos_ids = frozenset(eos_ids)
        if self.im_end is not None:
            self.eos_ids |= {self.im_end}

    @staticmethod
    def is_there(path: str | Path) -> bool:
        """Whether `path` has the files of a tokenizer, valid or not."""
        return (Path(path) / "tokenizer.json").is_file() or vocab_and_merges.has_both(Path(path))

    @classmethod
    def from_dir(cls, path: str | Path) -> Tokenizer:
        """Read tokenizer.json, and the end tokens from the configuration files beside it.

        Without tokenizer.json, reads vocab.json and merges.txt, which some tools save instead.
        Raises `ConfigError` if a file is missing, damaged, or not of a byte-level BPE.
        """
        from tokenizers import Tokenizer as Backend

        file = Path(path) / "tokenizer.json"
        if not file.is_file() and vocab_and_merges.has_both(Path(path)):
            backend = vocab_and_merges.build(Path(path))
            return cls(backend, declared_eos(Path(path), backend))
        if not file.is_file():
            hint = "a model directory has tokenizer.json beside config.json"
            raise ConfigError("no tokenizer.json", got=f"directory {path}", hint=hint)
        if file.stat().st_size > _LARGEST:
            got, expected = f"{file.stat().st_size} bytes", f"{_LARGEST} at most"
            raise ConfigError("unreadable tokenizer.json", got=got, expected=expected)
        try:
            backend = Backend.from_file(str(file))
        except BaseException as error:  # the library raises plain Exception, or panics
            if is_lfs_pointer(file):
                raise ConfigError(f"{file.name} was not downloaded", **LFS) from None
            _raise_ours(error, "unreadable tokenizer.json")
        return cls(backend, declared_eos(Path(path), backend))

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; added tokens such as ``<think>`` become their single ids.

        Raises `OptionError` for text with lone surrogates, which UTF-8 can't encode.
        """
        return self._encode(self._backend, text)

    def _encode(self, backend: tokenizers.Tokenizer, text: str) -> list[int]:
        try:
            if isinstance(text, str) and len(text) > LONG:
                return backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
            return backend.encode(text, add_special_tokens=False).ids
        except TypeError:
            lone = "a lone surrogate: bytes that were not UTF-8"
            got = lone if isinstance(text, str) else type(text).__name__
            raise OptionError("text", got=got, expected="a str of valid Unicode") from None
        except BaseException as error:
            _raise_ours(error, "the tokenizer fails on a text")

    def encode_letters(self, text: str) -> list[int]:
        """The ids of `text` with added tokens such as ``<think>`` encoded as ordinary letters.

        Raises `OptionError` for text with lone surrogates.
        """
        return self._encode(self._plain, text)

    def encode_exactly(self, text: str) -> list[int]:
        """As `encode_letters` without NFC normalisation: the ids decode to exactly `text`."""
        return self._encode(self._unnormalised, text)

    def split_markers(self, text: str) -> list[str]:
        """`text` split at added tokens: text, marker, text, marker, …, text."""
        return self._added.split(text)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The added tokens that are flagged special: ``<|im_start|>``, but not ``<think>``."""
        added = self._backend.get_added_tokens_decoder().items()
        return frozenset(token for token, one in added if one.special)

    @cached_property
    def added_ids(self) -> frozenset[int]:
        """All added tokens, special or not: `special_ids` and those such as ``<think>``."""
        return frozenset(self._backend.get_added_tokens_decoder())

    @cached_property
    def all_markers(self) -> re.Pattern[str]:
        """Matches the spelling of any token that structures a conversation.

        Tokens of code completion prompts (``<|fim_prefix|>``) are not included.
        """
        names = [token.content for token in self._added_tokens if token.special]
        return _any_of([*names, *(name for name in _MARKERS if self._has(name))])

    @cached_property
    def control_markers(self) -> re.Pattern[str]:
        """Matches the spelling of any token flagged special, such as ``<|im_end|>``."""
        return _any_of([token.content for token in self._added_tokens if token.special])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, special tokens included; invalid UTF-8 becomes U+FFFD.

        Ids that the vocabulary doesn't use add nothing. Raises `OptionError` for invalid ids.
        """
        try:
            return self._backend.decode(list(ids), skip_special_tokens=False)
        except (OverflowError, TypeError):
            raise OptionError("token ids", got=shown(ids), expected=_IDS) from None
        except BaseException as error:
            _raise_ours(error, "the tokenizer fails on token ids")

    def id_to_bytes(self, token: int) -> bytes:
        """The bytes that `token` adds to the text; empty for an id that the vocabulary doesn't use.

        Raises `OptionError` unless `token` is an int from 0 to 2**32 - 1.
        """
        try:
            return self._bytes[token]
        except (KeyError, TypeError):
            if type(token) is not int or not 0 <= token < 2**32:
                raise OptionError("token id", got=shown(token), expected=_IDS) from None
        self._bytes[token] = _token_bytes(self._backend.id_to_token(token) or "")
        return self._bytes[token]

    def token_id(self, name: str) -> int:
        """The id of the token spelled `name`. Raises `ConfigError` if the vocabulary lacks it."""
        token = self._backend.token_to_id(name)
        if token is None:
            hint = "this tokenizer.json is not one of Qwen3's"
            raise ConfigError("the vocabulary lacks a token", got=shown(name), hint=hint)
        return token

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """A tokenizer that shares the BPE model of this one, but has no added tokens."""
        plain = type(self._backend)(self._backend.model)
        for part in ("normalizer", "pre_tokenizer"):
            if (value := getattr(self._backend, part)) is not None:
                setattr(plain, part, value)
        return plain

    @cached_property
    def _unnormalised(self) -> tokenizers.Tokenizer:
        exact = type(self._backend)(self._backend.model)
        if (splitter := self._backend.pre_tokenizer) is not None:
            exact.pre_tokenizer = splitter
        return exact

    @cached_property
    def _added_tokens(self) -> list[tokenizers.AddedToken]:
        return list(self._backend.get_added_tokens_decoder().values())

    @cached_property
    def _added(self) -> re.Pattern[str]:
        return _any_of([token.content for token in self._added_tokens])

    def _has(self, name: str) -> bool:
        return self._backend.token_to_id(name) is not None

    @property
    def largest_id(self) -> int:
        """The largest token id, provided that the vocabulary has no gaps; Qwen's have none."""
        return max([self.vocab_size - 1, *self._backend.get_added_tokens_decoder()])

    @property
    def vocab_size(self) -> int:
        """The number of tokens, added ones included; the network's embedding may have more rows."""
        return self._backend.get_vocab_size(with_added_tokens=True)


def _raise_ours(error: BaseException, what: str) -> NoReturn:
    """Raise `ConfigError` if `error` comes from the library, else re-raise `error`.

    A panic of the library's Rust code is a `BaseException` whose class can't be imported.
    """
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        raise ConfigError(what, got=error, hint=_DAMAGED) from None
    raise error


def _check_kinds(backend: tokenizers.Tokenizer) -> None:
    """Raise `ConfigError` unless the tokenizer's components are of the kinds that Qwen's have.

    Components of other kinds may fail in unexpected ways, with panics for instance.
    """
    before = backend.pre_tokenizer
    several = type(before).__name__ == "Sequence"
    found = {
        "decoder": [backend.decoder],
        "model": [backend.model],
        "normalizer": [backend.normalizer],
        "pre_tokenizer": list(before) if several else [before],
    }
    for part, values in found.items():
        for kind in (type(value).__name__ for value in values):
            if kind not in _KINDS[part]:
                expected = " or ".join(_KINDS[part])
                raise ConfigError(f"tokenizer: {part}", got=kind, expected=expected, hint=_QWENS)


def _any_of(texts: list[str]) -> re.Pattern[str]:
    """A pattern with one group, the longest of `texts` that fits; without any it never matches."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})" if texts else "((?!))")


def _token_bytes(token: str) -> bytes:
    try:
        return bytes(_BYTES[character] for character in token)
    except KeyError:  # an added token: its name is plain text, not GPT-2's byte alphabet
        return token.encode()

"""Builds Qwen's tokenizer from vocab.json and merges.txt, which some tools save instead.

Rules that only tokenizer.json holds are Qwen's own (its ``tokenizer.json``, the same since Qwen2):
NFC, its pattern to split text, byte-level BPE. Added tokens come from tokenizer_config.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3_mlx.errors import ConfigError, brief
from qwen3_mlx.files import read_json

if TYPE_CHECKING:
    import tokenizers

VOCABULARY, MERGES = "vocab.json", "merges.txt"
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen's pre-tokenizer: splits into words, single digits, punctuation, line ends and blanks."""


def has_both(directory: Path) -> bool:
    """Whether `directory` has vocab.json and merges.txt."""
    return (directory / VOCABULARY).is_file() and (directory / MERGES).is_file()


def build(directory: Path) -> tokenizers.Tokenizer:
    """The tokenizer of `directory`. Raises `ConfigError` for damaged or inconsistent files."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
    from tokenizers import pre_tokenizers as before

    try:
        model = models.BPE.from_file(str(directory / VOCABULARY), str(directory / MERGES))
    except Exception as error:  # the library raises plain Exception
        hint = "the files are damaged, or of different models: take the original's tokenizer.json"
        what = f"unreadable {VOCABULARY} or {MERGES}"
        raise ConfigError(what, got=error, hint=hint) from None
    backend = Tokenizer(model)
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = before.Sequence(
        [
            before.Split(Regex(SPLIT), behavior="isolated"),
            before.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    listed = read_json(directory / "tokenizer_config.json").get("added_tokens_decoder")
    for key, token in sorted(_entries(listed), key=lambda entry: entry[0]):
        added = AddedToken(
            token["content"],
            special=bool(token.get("special")),
            normalized=bool(token.get("normalized")),
            lstrip=bool(token.get("lstrip")),
            rstrip=bool(token.get("rstrip")),
            single_word=bool(token.get("single_word")),
        )
        backend.add_tokens([added])
        if backend.token_to_id(token["content"]) != key:
            raise ConfigError(
                f"tokenizer_config.json: token {token['content']!r}",
                got=f"id {key}, behind a vocabulary of {backend.get_vocab_size()}",
                hint="the files are of different models: take the original's tokenizer.json",
            )
    return backend


def _entries(listed: object) -> list[tuple[int, dict[str, Any]]]:
    entries = listed.items() if isinstance(listed, dict) else ()
    found = []
    for key, token in entries:
        if not str(key).isdecimal() or not isinstance(token, dict):
            raise ConfigError("tokenizer_config.json: added_tokens_decoder", got=brief(key))
        if not isinstance(token.get("content"), str):
            raise ConfigError(f"tokenizer_config.json: token {key}", got=brief(token))
        found.append((int(key), token))
    return found

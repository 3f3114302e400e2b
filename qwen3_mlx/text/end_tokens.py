"""The tokens that a checkpoint's files declare as a turn's end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from qwen3_mlx.errors import ConfigError, shown
from qwen3_mlx.files import read_json

if TYPE_CHECKING:
    import tokenizers


def token_text(value: object) -> str | None:
    """The text of a special token in tokenizer_config.json: a str, or an object's ``content``."""
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) else None


def declared_eos(path: Path, backend: tokenizers.Tokenizer) -> set[int]:
    """The end tokens in generation_config.json, else in config.json and tokenizer_config.json."""
    declared = _eos_of(path / "generation_config.json")
    if declared:
        return declared
    name = token_text(read_json(path / "tokenizer_config.json").get("eos_token"))
    token = backend.token_to_id(name) if name else None
    return _eos_of(path / "config.json") | ({token} if token is not None else set())


def _eos_of(file: Path) -> set[int]:
    value = read_json(file).get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(token) is int and token >= 0 for token in ids):
        expected = "a token id or a list of them"
        raise ConfigError(f"{file.name}: eos_token_id", got=shown(value), expected=expected)
    return set(ids)

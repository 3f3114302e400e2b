"""Words and switches as users give them."""

from __future__ import annotations

from qwen3_mlx.errors import OptionError, shown


def is_word(value: object, *words: str) -> bool:
    """Whether `value` is one of `words`. An array, which compares as an array, is none."""
    return isinstance(value, str) and value in words


def switch(what: str, value: object) -> bool:
    """`value`, if it is True or False. Raises `OptionError`, naming `what`: ``"no"`` is true."""
    if not isinstance(value, bool):
        raise OptionError(what, got=shown(value, longest=80), expected="True or False")
    return value


def whole_characters(what: str, value: object) -> str:
    """`value`, if it is a text that UTF-8 has. Raises `OptionError`, naming `what`."""
    if not isinstance(value, str):
        raise OptionError(what, got=shown(value, longest=80), expected="a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        got = f"a lone surrogate at character {error.start}: bytes that were not UTF-8"
        raise OptionError(what, got=got, expected="valid Unicode") from None
    return value

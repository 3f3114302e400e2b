"""What the address and the headers of an HTTP server may be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from qwen3_mlx.errors import OptionError

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]*")
_PATH = re.compile(r"[\x21-\x7e]*")


def checked_address(url: str, where: str) -> SplitResult:
    """The parts of `url`. Raises `OptionError`, with `where` it stands, if it is no address."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise OptionError(where, got=f"{url}: {error}", expected=_EXPECTED) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise OptionError(where, got=url, expected=_EXPECTED)
    if parts.username is not None:
        hint = '"headers": {"Authorization": "Basic …"}'
        raise OptionError(where, got="one with a name before the @", expected=_EXPECTED, hint=hint)
    if not _PATH.fullmatch(url):
        hint = "a space is %20, and another letter is written as %… too"
        raise OptionError(where, got=ascii(url), expected="ASCII letters", hint=hint)
    return parts


def check_headers(headers: Mapping[str, str], where: str) -> None:
    """Raise `OptionError` for a header that HTTP can't carry; its value isn't shown."""
    for name, value in headers.items():
        if not _NAME.fullmatch(name):
            raise OptionError(where, got=f"the name {name!r}", expected="letters, digits and -")
        if not _VALUE.fullmatch(value):
            got, hint = "a line break or another character that HTTP doesn't carry", None
            if value != value.strip():
                hint = "at its end: does the variable or the file that it comes from end in one?"
            raise OptionError(f"{where}.{name}", got=got, expected="one line", hint=hint)


_EXPECTED = "http://… or https://…"

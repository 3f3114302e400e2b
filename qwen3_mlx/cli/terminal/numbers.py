"""Numbers as the commands and the chat show them; bytes are spelled by `errors.gb`."""

from __future__ import annotations


def short(tokens: int) -> str:
    """``950``, ``3.2k``, ``131k``: tokens; a k is a thousand."""
    if tokens < 1000:
        return str(tokens)
    return f"{tokens / 1000:.1f}k" if tokens < 100_000 else f"{tokens // 1000}k"


def parameters(count: int, digits: int = 1) -> str:
    """``8.2 B``, ``5.8 M``."""
    unit, scale = ("B", 1e9) if count >= 1e9 else ("M", 1e6)
    return f"{count / scale:.{digits}f} {unit}"

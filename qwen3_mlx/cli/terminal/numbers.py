"""Numbers as the commands and the chat show them; bytes are spelled by `errors.gb`."""

from __future__ import annotations


def short(tokens: int) -> str:
    """``950``, ``3.1k``, ``32k``: tokens, rounded down; a k is 1024, as in a context's name."""
    if tokens < 1024:
        return str(tokens)
    tenths = tokens * 10 // 1024
    return f"{tenths // 10}k" if tenths >= 1000 or not tenths % 10 else f"{tenths / 10:.1f}k"


def parameters(count: int, digits: int = 1) -> str:
    """``8.2 B``, ``5.8 M``."""
    unit, scale = ("B", 1e9) if count >= 1e9 else ("M", 1e6)
    return f"{count / scale:.{digits}f} {unit}"

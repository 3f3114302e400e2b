"""Formats numbers for commands and chat; `errors.gb` formats bytes."""

from __future__ import annotations

EVERYDAY_CONTEXT = 4096
"""Tokens of context for which `info` and `models` compute the memory by default."""


def short(tokens: int) -> str:
    """A token count: ``950``, ``3.2k``, ``131k``, where k is 1000."""
    if tokens < 1000:
        return str(tokens)
    return f"{tokens / 1000:.1f}k" if tokens < 100_000 else f"{tokens // 1000}k"


def parameters(count: int, digits: int = 1) -> str:
    """A parameter count: ``8.2 B``, ``5.8 M``."""
    unit, scale = ("B", 1e9) if count >= 1e9 else ("M", 1e6)
    return f"{count / scale:.{digits}f} {unit}"

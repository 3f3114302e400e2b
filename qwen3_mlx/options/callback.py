"""A function that a caller gives to be told of progress."""

from __future__ import annotations

from collections.abc import Callable

from qwen3_mlx.errors import OptionError, shown


def callback(what: str, given: object) -> Callable[[int, int], object]:
    """`given`, or for None a function that does nothing. Raises `OptionError`, naming `what`.

    It is called long after it was given: a value that can't be called would fail in the midst of
    the work, as a TypeError that names nothing.
    """
    if given is None:
        return _nothing
    if not callable(given):
        expected = "a function of two numbers: done, and in all"
        raise OptionError(what, got=shown(given), expected=expected)
    return given


def _nothing(done: int, total: int) -> None:
    """Tell nobody."""

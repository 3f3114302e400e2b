"""Numbers as users give them, numpy's included, as plain ints and floats."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from numbers import Real
from typing import Any

from qwen3_mlx.errors import OptionError, shown


def whole(value: Any) -> int | None:
    """`value` as an int if it is a whole number by its type; None for all else, and for bools."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def number(value: Any) -> int | float | None:
    """`value` as an int or a float if it is a number by its type; None for all else, and bools."""
    found = whole(value)
    if found is not None or isinstance(value, bool) or not isinstance(value, Real):
        return found
    try:
        return float(value)
    except (OverflowError, TypeError, ValueError):
        return None


def within(value: Any, low: float, high: float, *, integer: bool) -> Any:
    """`value` as a plain number from `low` to `high`; None if it is none."""
    found = whole(value) if integer else number(value)
    return found if found is not None and low <= found <= high else None


def ranged(what: str, value: Any, low: float, high: float, expected: str, integer: bool) -> Any:
    """`value` as a plain number within the range; None for None. Raises `OptionError`."""
    found = None if value is None else within(value, low, high, integer=integer)
    if found is None and value is not None:
        if integer and (isinstance(value, bool) or whole(value) is None):
            expected = f"a whole number, {expected}"
        raise OptionError(what, got=shown(value), expected=expected)
    return found


def biases(value: Any) -> dict[int, float]:
    """`logit_bias` with int keys, where JSON has them as text. Raises `OptionError`."""
    expected = "a dict of token ids and numbers from -100 to 100"
    if not isinstance(value, Mapping):
        raise OptionError("logit_bias", got=shown(value)[:80], expected=expected)
    found = {}
    for token, bias in value.items():
        spelled = isinstance(token, str) and token.isascii() and token.isdigit() and len(token) < 20
        key = within(int(token) if spelled else token, 0, math.inf, integer=True)
        added = within(bias, -100, 100, integer=False)
        if key is None or added is None:
            got = f"{shown(token)}: {shown(bias)}"[:80]
            raise OptionError("logit_bias", got=got, expected=expected)
        found[key] = added
    return found

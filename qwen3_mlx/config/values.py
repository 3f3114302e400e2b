"""Checks of single values of config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwen3_mlx.errors import ConfigError, shown

LARGEST = 2**31
"""The exclusive upper bound of sizes and counts: an array's sides are 32-bit integers."""


def block(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A copy of the object at `key`, empty if it is missing. Raises `ConfigError`."""
    block = values.get(key)
    if block is not None and not isinstance(block, dict):
        raise ConfigError(f"config.json: {key}", got=shown(block), expected="an object")
    return dict(block or {})


def positive(key: str, value: Any) -> float:
    """`value` as a float if it is a number in (0, 2**31). Raises `ConfigError`."""
    if type(value) in (int, float) and 0 < value < LARGEST:
        return float(value)
    raise ConfigError(f"config.json: {key}", got=shown(value), expected="a positive number")

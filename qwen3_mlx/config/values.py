"""Single values of config.json, checked as they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwen3_mlx.errors import ConfigError, shown

LARGEST = 2**31
"""Sides of arrays, and everything counted along them, stay below."""


def block(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A copy of the object at `key`; empty where there is none."""
    block = values.get(key)
    if block is not None and not isinstance(block, dict):
        raise ConfigError(f"config.json: {key}", got=shown(block), expected="an object")
    return dict(block or {})


def positive(key: str, value: Any) -> float:
    """`value` if it is a positive number that arithmetic can bear."""
    if type(value) in (int, float) and 0 < value < LARGEST:
        return float(value)
    raise ConfigError(f"config.json: {key}", got=shown(value), expected="a positive number")

"""Prepares a JSON schema for llguidance, which refuses keywords without effect and rounds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from qwen3_mlx.errors import OptionError

_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords whose value is an object of schemas by name, not a schema."""
_VALUES = ("const", "enum")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_REMARKS = ("default", "example", "examples")
_NOTHING: dict[str, Any] = {"uniqueItems": False, "dependentRequired": {}, "dependentSchemas": {}}
"""Keywords with the value at which they restrict nothing."""
_LARGEST = 2**53
"""llguidance computes in 64-bit floats: from here on it would force a neighbour of a number."""
_LEAST_OF_64_BITS = -(2**63)
"""A lower bound that llguidance refuses beside a large upper one. It takes the next float."""


def prepared(schema: Any, what: str, lenient: bool) -> Any:
    """A copy of `schema` without keywords that restrict nothing, such as unknown formats.

    Bounds that are no 64-bit floats are narrowed to the next one, so that no answer exceeds them.
    Raises `OptionError`, naming `what`, for a whole number that llguidance would round; with
    `lenient` its keyword is left out.
    """
    if isinstance(schema, list | tuple):
        return [prepared(one, what, lenient) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    found: dict[str, Any] = {}
    for key, value in schema.items():
        if _restricts_nothing(key, value):
            continue
        if key in _BY_NAME and isinstance(value, Mapping):
            found[key] = {name: prepared(one, what, lenient) for name, one in value.items()}
        elif key in _BOUNDS:
            found[key] = _inward(value, up=key.lower().endswith("minimum"))
        elif key in _VALUES:
            number = _rounded(value)
            if number is None:
                found[key] = value
            elif not lenient:
                _refuse(what, key, number)
        else:
            found[key] = value if key in _REMARKS else prepared(value, what, lenient)
    return found


def _restricts_nothing(key: str, value: Any) -> bool:
    if key == "format":
        return isinstance(value, str) and not _is_known(value)
    return key in _NOTHING and value == _NOTHING[key]


@lru_cache(maxsize=256)
def _is_known(format: str) -> bool:
    """Whether llguidance holds a text to `format`; by the standard others are mere remarks."""
    from llguidance import LLMatcher

    schema = json.dumps({"type": "string", "format": format})
    try:
        return not LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(schema))
    except ValueError:
        return False


def _inward(bound: Any, up: bool) -> Any:
    """`bound`, or the next whole 64-bit float above (`up`) or below if it isn't one itself."""
    if type(bound) is not int or abs(bound) <= _LARGEST:
        return bound
    try:
        nearest = float(bound)
    except OverflowError:
        return bound
    if up and (int(nearest) < bound or bound == _LEAST_OF_64_BITS):
        nearest = math.nextafter(nearest, math.inf)
    elif not up and int(nearest) > bound:
        nearest = math.nextafter(nearest, -math.inf)
    return int(nearest)


def _rounded(value: Any) -> int | None:
    """A whole number in `value` that llguidance would round; None if there is none."""
    left = [value]
    while left:
        one = left.pop()
        if type(one) is int and abs(one) > _LARGEST:
            return one
        left += one.values() if isinstance(one, Mapping) else one if isinstance(one, list) else ()
    return None


def _refuse(what: str, key: str, number: int) -> None:
    raise OptionError(
        f"{what} can't be honoured",
        got=f"{key} with {number}",
        expected=f"whole numbers up to {_LARGEST}: larger ones would be rounded",
        hint="write it as text, in quotes, or leave it out and check the answer",
    )

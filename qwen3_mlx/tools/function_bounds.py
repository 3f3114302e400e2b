"""Bounds in annotations: ``Annotated[int, Ge(1)]`` of annotated-types, pydantic's ``Field(ge=1)``.

They are found by the names of annotated-types' attributes, so neither package is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

Bounds = dict[str, Any]
"""Values by annotated-types' names: ``ge``, ``max_length``, …"""

_NUMBERS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "multiple_of": "multipleOf",
}
_TEXTS = {"min_length": "minLength", "max_length": "maxLength", "pattern": "pattern"}
_LISTS = {"min_length": "minItems", "max_length": "maxItems"}
_WORDS = {"number": _NUMBERS, "integer": _NUMBERS, "string": _TEXTS, "array": _LISTS}


def bounds_of(notes: Iterable[Any]) -> Bounds:
    """The bounds among the notes of an annotation; the last one of a name counts."""
    return {
        name: value
        for note in notes
        for one in (note, *_within(note))
        for name in (*_NUMBERS, *_TEXTS)
        if isinstance(value := getattr(one, name, None), int | float | str)
        and not isinstance(one, str)
    }


def _within(note: Any) -> Iterator[Any]:
    """The notes that pydantic's Field holds."""
    found = getattr(note, "metadata", ())
    yield from found if isinstance(found, list | tuple) else ()


def bounded(schema: dict[str, Any], bounds: Bounds) -> dict[str, Any]:
    """`schema` of a number, text or list with `bounds` in JSON Schema's words."""
    words = _WORDS.get(str(schema.get("type")), {})
    return schema | {words[name]: value for name, value in bounds.items() if name in words}


def check_bounds(value: Any, bounds: Bounds, where: str) -> None:
    """Raise `ValueError`, naming `where`, if `value` is outside `bounds`."""
    for name, bound in bounds.items():
        if not _is_within(value, name, bound):
            raise ValueError(f"{where} is {value!r}: expected {name} {bound!r}")


def _is_within(value: Any, name: str, bound: Any) -> bool:
    if isinstance(value, int | float) and name in _NUMBERS:
        return _is_number_within(value, name, bound)
    if isinstance(value, str) and name == "pattern":
        return re.search(bound, value) is not None
    if isinstance(value, str | list | tuple | set | frozenset) and name in _LISTS:
        return len(value) >= bound if name == "min_length" else len(value) <= bound
    return True


def _is_number_within(value: float, name: str, bound: float) -> bool:
    match name:
        case "ge":
            return value >= bound
        case "gt":
            return value > bound
        case "le":
            return value <= bound
        case "lt":
            return value < bound
    times = value / bound  # not %, which calls 0.3 no multiple of 0.1
    return abs(times - round(times)) < 1e-9

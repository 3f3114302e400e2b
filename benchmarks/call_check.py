"""Function-calling questions, and whether a model's calls are the right ones.

As in BFCL, a question holds for each call the values that each parameter may have, and `ABSENT`
among them where the parameter may be left out. Calls of one step count in any order. Text is
compared without case and blanks; unlike BFCL's own checker, punctuation counts, so that ``2 * 3``
is not ``2 + 3``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ABSENT = ""
CATEGORIES = ("simple", "multiple", "parallel", "irrelevance", "multi_turn")

_OTHER_NAME = " was to be"

Json = dict[str, Any]
Call = tuple[str, Json]
"""A call as the model wrote it: name and arguments."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A call that is right: the function, and the allowed values of each of its parameters."""

    name: str
    arguments: Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Step:
    """Calls made at one time, and what comes back for each."""

    calls: Sequence[Expected]
    results: Sequence[str]


@dataclass(frozen=True, slots=True)
class Turn:
    """A message of the user and the steps that it takes; an answer without a call ends it."""

    content: str
    steps: Sequence[Step]


@dataclass(frozen=True, slots=True)
class Question:
    """One question of the benchmark. Outside `multi_turn` only the first step is scored."""

    id: str
    category: str
    tools: Sequence[Json]
    """What the chat template renders."""
    turns: Sequence[Turn]
    system: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a step is wrong, "" where it is right; and which expected call each call is."""

    wrong: str
    places: Sequence[int] = ()


def check(expected: Sequence[Expected], calls: Sequence[Call], tools: Sequence[Json]) -> Verdict:
    """Compare the calls of one step with those that are right."""
    if not expected:
        return Verdict(f"called {calls[0][0]}" if calls else "")
    if len(calls) != len(expected):
        return Verdict(f"{len(calls)} calls, not {len(expected)}")
    schemas = {tool["function"]["name"]: tool["function"] for tool in tools}
    faults = [[fault(e, call, schemas) for e in expected] for call in calls]
    places = _matching([[not text for text in row] for row in faults])
    if places is not None:
        return Verdict("", places)
    never = [row for row in faults if all(row)]
    if not never:
        return Verdict("two of its calls are for the same expected one")
    same_name = [text for text in never[0] if not text.endswith(_OTHER_NAME)]
    return Verdict((same_name or never[0])[0])


def _matching(fits: Sequence[Sequence[bool]]) -> list[int] | None:
    """A different column for each row where `fits` is true, or None."""
    owner: dict[int, int] = {}

    def place(row: int, tried: set[int]) -> bool:
        for column, fit in enumerate(fits[row]):
            if fit and column not in tried:
                tried.add(column)
                if column not in owner or place(owner[column], tried):
                    owner[column] = row
                    return True
        return False

    if not all(place(row, set()) for row in range(len(fits))):
        return None
    of_row = {row: column for column, row in owner.items()}
    return [of_row[row] for row in range(len(fits))]


def fault(expected: Expected, call: Call, schemas: Mapping[str, Json]) -> str:
    """Why `call` isn't the expected one, or ""."""
    name, arguments = call
    if name != expected.name:
        return f"{name} was called, {expected.name}{_OTHER_NAME}"
    properties = schemas[name].get("parameters", {}).get("properties", {})
    for key, value in arguments.items():
        if key not in expected.arguments:
            return f"{name} got {key}, which it doesn't take here"
        schema = properties.get(key, {})
        if not has_type(value, schema):
            return f"{key} is {value!r}, not of the type {schema.get('type')}"
        if not any(same(value, one) for one in expected.arguments[key] if one != ABSENT):
            return f"{key} is {value!r}, not {list(expected.arguments[key])!r}"
    for key, allowed in expected.arguments.items():
        if key not in arguments and ABSENT not in allowed:
            return f"{key} is missing"
    return ""


_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "float": (int, float),
    "boolean": (bool,), "array": (list,), "tuple": (list,), "object": (dict,), "dict": (dict,),
}  # fmt: skip


def has_type(value: Any, schema: Json) -> bool:
    """Whether `value` is of the type that the schema names; True where it names none we know."""
    types = _TYPES.get(str(schema.get("type")))
    if types is None:
        return True
    if isinstance(value, bool) and bool not in types:
        return False
    if not isinstance(value, types):
        return False
    items = schema.get("items")
    return not (isinstance(value, list) and items) or all(has_type(v, items) for v in value)


def same(value: Any, allowed: Any) -> bool:
    """Whether two JSON values are equal; text without case and blanks, numbers by value.

    Inside an allowed object each value is again a list of allowed ones, as BFCL has it.
    """
    if isinstance(value, str) and isinstance(allowed, str):
        return _plain(value) == _plain(allowed)
    if isinstance(value, bool) or isinstance(allowed, bool):
        return value is allowed
    if isinstance(value, list) and isinstance(allowed, list):
        return len(value) == len(allowed) and all(map(same, value, allowed))
    if isinstance(value, dict) and isinstance(allowed, dict):
        return set(value) <= set(allowed) and all(
            _in_object(value, k, a) for k, a in allowed.items()
        )
    return bool(value == allowed)


def _in_object(value: Json, key: str, allowed: Any) -> bool:
    options = allowed if isinstance(allowed, list) else [allowed]
    if key not in value:
        return ABSENT in options
    return any(same(value[key], option) for option in options)


def _plain(text: str) -> str:
    return "".join(text.casefold().replace("'", '"').split())

"""Converts the text of a Coder call's parameter to the type in the tool's schema."""

from __future__ import annotations

import ast
import json
import re
import threading
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from qwen3_mlx.text.loose_json import strict_json

_WARNINGS = threading.Lock()
"""Held while the warning filters are changed: all threads share them."""
_INTEGER = re.compile(r"[+-]?\d+(\.0+)?")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WORDS: dict[str, Any] = {"true": True, "false": False}
_NULL = ("null", "None")
# Python's type names, which hand-written schemas use.
_ALIASES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "dict": "object",
    "list": "array",
    "tuple": "array",
    "none": "null",
}
_MAX_DEPTH = 32  # most levels of references and of combined schemas
_MISSING = object()


class ArgumentTypes:
    """The types of one tool's parameters, from its JSON schema."""

    def __init__(self, schema: object) -> None:
        """`schema` is a tool's ``parameters``; anything but a dict declares no parameter."""
        self._root = schema if isinstance(schema, Mapping) else {}
        self._properties: dict[str, Any] = {}
        self._others: Any = None
        self._collect(self._root, 0)

    def declares(self, name: str) -> bool:
        """Whether the schema has a parameter of that name."""
        return name in self._properties

    def value(self, name: str, text: str) -> Any:
        """`text` converted to its parameter's type; unchanged if it doesn't fit that type.

        If the schema declares no type, text that is JSON is parsed.
        """
        kinds, enum = self._kinds(self._properties.get(name, self._others), 0)
        for member in enum:
            if text == member if isinstance(member, str) else _is(member, _guess(text)):
                return member
        if not kinds:
            return _guess(text)
        lossless = "string" in kinds
        for kind in ("null", "boolean", "integer", "number", "array", "object"):
            if kind in kinds and (value := _READERS[kind](text.strip())) is not _MISSING:
                # If text is allowed too, "007" and "1.10" stay text.
                number = kind in ("integer", "number")
                if not (lossless and number) or json.dumps(value) == text:
                    return value
        return text

    def streams(self, name: str) -> bool:
        """Whether the parameter can only be text, so that its value can be streamed."""
        kinds, enum = self._kinds(self._properties.get(name, self._others), 0)
        return kinds == {"string"} and all(isinstance(member, str) for member in enum)

    def may_be_text(self, name: str) -> bool:
        """Whether the schema allows text for the parameter, or declares no type for it."""
        kinds, _ = self._kinds(self._properties.get(name, self._others), 0)
        return not kinds or "string" in kinds

    def _collect(self, schema: object, depth: int) -> None:
        schema = self._resolve(schema)
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
            return
        properties = schema.get("properties")
        if isinstance(properties, Mapping):
            self._properties = {**properties, **self._properties}
        if isinstance(schema.get("additionalProperties"), Mapping):
            self._others = schema["additionalProperties"]
        for name in ("allOf", "anyOf", "oneOf"):
            for part in _list(schema.get(name)):
                self._collect(part, depth + 1)

    def _resolve(self, schema: object) -> object:
        """Follow ``$ref`` within the schema; None if it leads nowhere."""
        for _ in range(_MAX_DEPTH):
            reference = schema.get("$ref") if isinstance(schema, Mapping) else None
            if not isinstance(reference, str):
                return schema
            target: Any = self._root
            for step in reference.removeprefix("#").split("/")[1:]:
                step = step.replace("~1", "/").replace("~0", "~")
                target = target.get(step) if isinstance(target, Mapping) else None
            schema = target
        return None

    def _kinds(self, schema: object, depth: int) -> tuple[set[str], list[Any]]:
        """The types that `schema` allows (empty: it declares none), and its enums' members."""
        schema = self._resolve(schema)
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
            return set(), []
        kinds = {_ALIASES.get(k, k) for k in _list(schema.get("type")) if isinstance(k, str)}
        enum = [*_list(schema.get("enum")), *([schema["const"]] if "const" in schema else [])]
        for name in ("anyOf", "oneOf"):
            for part in _list(schema.get(name)):
                more, members = self._kinds(part, depth + 1)
                kinds, enum = kinds | more, enum + members
        for part in _list(schema.get("allOf")):
            more, members = self._kinds(part, depth + 1)
            kinds, enum = (kinds & more or kinds | more), enum + members
        kinds |= {_kind_of(member) for member in enum} if not kinds else set()
        if not kinds:
            kinds |= {"object"} if "properties" in schema else set()
            kinds |= {"array"} if "items" in schema else set()
        return kinds | ({"null"} if schema.get("nullable") is True and kinds else set()), enum


def _list(value: object) -> Iterable[Any]:
    if value is None:
        return ()
    return value if isinstance(value, list | tuple) else (value,)


def _is(member: object, value: object) -> bool:
    return type(member) is type(value) and member == value


def _kind_of(member: object) -> str:
    names = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array"}
    return "null" if member is None else names.get(type(member), "object")


def _guess(text: str) -> Any:
    """`text` parsed, if it is a JSON object, array, number or boolean, or Python's; else `text`."""
    try:
        value = strict_json(text)
    except ValueError:
        return _WORDS.get(text.lower(), text) if text in ("True", "False") else text
    return value if isinstance(value, dict | list | int | float) else text


def _null(text: str) -> Any:
    return None if text in _NULL else _MISSING


def _boolean(text: str) -> Any:
    return _WORDS.get(text.lower(), _MISSING)


def _integer(text: str) -> Any:
    fits = _INTEGER.fullmatch(text) and len(text) < 4300  # int() refuses longer texts
    return int(text.partition(".")[0]) if fits else _MISSING


def _number(text: str) -> Any:
    if (value := _integer(text) if "." not in text else _MISSING) is not _MISSING:
        return value
    value = float(text) if _NUMBER.fullmatch(text) else float("inf")
    return value if abs(value) != float("inf") else _MISSING


def _structure(text: str, kind: type) -> Any:
    try:
        value = strict_json(text)
    except ValueError:
        value = python_literal(text)
    return value if isinstance(value, kind) else _MISSING


def python_literal(text: str) -> Any:
    """The value of a Python literal that JSON can hold; None for any other text."""
    try:
        # Python's warnings about the model's text are suppressed: it isn't code of this program.
        with _WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = ast.literal_eval(text) if len(text) < 100_000 else None
        return strict_json(json.dumps(value, allow_nan=False))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


_READERS = {
    "null": _null,
    "boolean": _boolean,
    "integer": _integer,
    "number": _number,
    "array": lambda text: _structure(text, list),
    "object": lambda text: _structure(text, dict),
}

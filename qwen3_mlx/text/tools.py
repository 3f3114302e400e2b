"""Validates tool definitions, and unwraps their functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwen3_mlx.errors import MessageError, brief
from qwen3_mlx.text.messages import json_value

_HINT = (
    'a tool is {"type": "function", "function": {"name": …, "description": …, "parameters": …}},'
    " where parameters is a JSON schema"
)
_FUNCTION = "Agent(model, tools=[function]) describes a function to the model, and runs it"


def normalise_tools(tools: object) -> list[dict[str, Any]] | None:
    """Validated copies of `tools`, made of JSON's types only; None for None.

    A tool may lack the outer ``function``. Raises `MessageError`, which names the tool by its
    index, and the field.
    """
    if tools is None:
        return None
    if not isinstance(tools, list | tuple):
        got = f"{type(tools).__name__} {tools!r:.60}"
        raise MessageError("tools", got=got, expected="a list of tools", hint=_HINT)
    return [_tool(tool, f"tools[{n}]") for n, tool in enumerate(tools)]


def function_of(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """The dict with a tool's name, description and parameters: its ``function``, or itself."""
    function = tool.get("function")
    return function if isinstance(function, Mapping) else tool


def _tool(tool: object, where: str) -> dict[str, Any]:
    if not isinstance(tool, Mapping):
        got = f"{type(tool).__name__} {tool!r:.60}"
        hint = _FUNCTION if callable(tool) else _HINT
        raise MessageError(where, got=got, expected="a dict", hint=hint)
    function, outer = function_of(tool), where
    if function is not tool:
        where = f"{where}.function"
    name = function.get("name")
    if not isinstance(name, str) or not name.strip():
        got = brief(name)
        raise MessageError(f"{where}.name", got=got, expected="the tool's name", hint=_HINT)
    _check_schema(function.get("parameters"), f"{where}.parameters")
    checked: dict[str, Any] = json_value(tool, outer)
    return checked


def _check_schema(schema: object, where: str) -> None:
    """Raise `MessageError` unless `schema` is None or a plausible JSON schema of an object."""
    if schema is None:
        return
    _expect(isinstance(schema, Mapping), schema, where, "a JSON schema, which is a dict")
    assert isinstance(schema, Mapping)
    kind, properties = schema.get("type", "object"), schema.get("properties", {})
    kinds = kind if isinstance(kind, list | tuple) else [kind]
    _expect("object" in kinds, kind, f"{where}.type", "'object'")
    _expect(isinstance(properties, Mapping), properties, f"{where}.properties", "a dict")
    required = schema.get("required") or []
    _expect(isinstance(required, list | tuple), required, f"{where}.required", "a list of names")
    for name, one in properties.items():
        _expect(isinstance(one, Mapping | bool), one, f"{where}.properties.{name}", "a JSON schema")
        if isinstance(one, Mapping):
            kind = one.get("type", [])
            names = kind if isinstance(kind, list | tuple) else [kind]
            fine = all(isinstance(value, str) for value in names)
            expected = "the name of a type, or a list of names"
            _expect(fine, kind, f"{where}.properties.{name}.type", expected)


def _expect(fine: bool, value: object, where: str, expected: str) -> None:
    if not fine:
        raise MessageError(where, got=brief(value), expected=expected, hint=_HINT)

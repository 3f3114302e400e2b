"""Normalises the options `schema` and `tool_choice` to plain JSON types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_origin

from qwen3_mlx.errors import OptionError, shown
from qwen3_mlx.options.plain_words import is_word


def plain_schema(value: Any) -> dict[str, Any] | None:
    """The JSON schema that `value` gives, as a dict of JSON types; None for None.

    `value` is a dict, a JSON text, a pydantic model class or TypeAdapter; True, the schema that
    accepts anything, becomes ``{}``. Raises `OptionError`.
    """
    expected = "a JSON schema: a dict, its text, or a pydantic model"
    if value is None:
        return None
    found = value
    named = "model_json_schema" if isinstance(value, type) else "json_schema"  # a TypeAdapter's
    make = getattr(value, named, None)
    try:
        if callable(make):
            found = make()
        if not isinstance(found, str):
            found = json.dumps(found, allow_nan=False, default=_plain)
        found = json.loads(found)
    except RecursionError:
        got = "one that is nested too deeply"
        raise OptionError("schema", got=got, expected=expected) from None
    except ValueError as error:
        raise OptionError("schema", got=str(error), expected=expected) from None
    except (TypeError, RuntimeError) as error:  # pydantic's are of the second kind
        hint = str(error)
        if make is None and (isinstance(value, type) or get_origin(value) is not None):
            hint = "pydantic.TypeAdapter(that).json_schema() is the schema of one of Python's types"
        raise OptionError("schema", got=shown(value)[:80], expected=expected, hint=hint) from None
    if found is True:
        return {}
    if not isinstance(found, dict):
        raise OptionError("schema", got=shown(value)[:80], expected=expected)
    return found


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"JSON has no form for {shown(value)[:80]}")


def plain_tool_choice(value: Any) -> str | dict[str, Any] | None:
    """One of "required", "none", ``{"name": …}`` or a dict of allowed tools; None for "auto".

    Allowed tools have the form of OpenAI's Responses API: ``{"type": "allowed_tools", "mode":
    "auto" or "required", "tools": [{"name": …}, …]}``. Raises `OptionError`.
    """
    if value is None or is_word(value, "auto"):
        return None
    if is_word(value, "required", "none"):
        return str(value)
    if isinstance(value, Mapping) and is_word(value.get("type"), "allowed_tools"):
        return _allowed(value.get("allowed_tools", value))
    name = _name(value)
    if name is not None:
        return {"name": name}
    expected = """'auto', 'none', 'required' or {"name": the tool's name}"""
    raise OptionError("tool_choice", got=shown(value)[:80], expected=expected)


def must_call(choice: Any) -> bool:
    """Whether `choice`, a result of `plain_tool_choice`, forces the answer to be a tool call."""
    return choice not in (None, "none") and (
        not isinstance(choice, dict) or choice.get("mode") != "auto"
    )


def _allowed(value: Any) -> dict[str, Any]:
    """Normalise an ``allowed_tools`` choice; only functions are kept, the sole tool type run here.

    Raises `OptionError` for an unknown mode, or if no function is left.
    """
    given = value if isinstance(value, Mapping) else {}
    mode, tools = given.get("mode"), given.get("tools")
    if not is_word(mode, "auto", "required"):
        got, expected = shown(mode)[:80], "'auto' or 'required'"
        raise OptionError("tool_choice: mode", got=got, expected=expected)
    functions = tools if isinstance(tools, list | tuple) else []
    functions = [
        one
        for one in functions
        if not isinstance(one, Mapping) or one.get("type", "function") == "function"
    ]
    names = [_name(one) for one in functions]
    if not names or None in names:
        hint = 'tool_choice="none" allows no tool'
        expected = "a list of functions by their names"
        raise OptionError("tool_choice: tools", got=shown(tools)[:80], expected=expected, hint=hint)
    return {"type": "allowed_tools", "mode": mode, "tools": [{"name": name} for name in names]}


def _name(value: Any) -> str | None:
    """The function name in ``{"name": …}`` or ``{"function": {"name": …}}``; None without one."""
    function = value.get("function", value) if isinstance(value, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) else None

"""The shape an answer is asked to have, as the options of a turn hold it: made of JSON's types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qwen3_mlx.errors import OptionError, shown


def plain_schema(value: Any) -> dict[str, Any] | None:
    """A JSON schema as a dict of JSON's types. Raises `OptionError`."""
    expected = "a JSON schema: a dict, its text, or a pydantic model"
    if value is None:
        return None
    found = value
    try:
        if isinstance(value, type) and callable(make := getattr(value, "model_json_schema", None)):
            found = make()
        text = found if isinstance(found, str) else json.dumps(found, allow_nan=False)
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        got = "one that is nested too deeply" if isinstance(error, RecursionError) else error
        raise OptionError("schema", got=got, expected=expected) from None
    if found is True:
        return {}
    if not isinstance(found, dict):
        raise OptionError("schema", got=shown(value)[:80], expected=expected)
    return found


def plain_tool_choice(value: Any) -> str | dict[str, str] | None:
    """``"required"``, ``{"name": …}``, or None for "auto". Raises `OptionError`."""
    if value is None or value == "auto":
        return None
    if value == "required":
        return "required"
    function = value.get("function", value) if isinstance(value, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if isinstance(name, str):
        return {"name": name}
    expected = """'auto', 'required' or {"name": the tool's name}"""
    raise OptionError("tool_choice", got=shown(value)[:80], expected=expected)

"""Parses the form of the answer (schema, regex) and the tool choice from every dialect's fields."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qwen3_mlx.errors import OptionError
from qwen3_mlx.options.answer_form import plain_tool_choice
from qwen3_mlx.serve.api_error import ApiError, refused
from qwen3_mlx.serve.ask import Json
from qwen3_mlx.serve.fields import Fields

NOT_HONOURED: dict[str, tuple[Any, ...]] = {
    "response_format": ({"type": "text"},),
    "guided_json": (),
    "json_schema": (),
    "guided_regex": (),
    "guided_choice": ([],),
    "structured_outputs": (),
}
"""Fields that ``/v1/completions`` refuses, and their harmless values: its text has no form."""


def read(fields: Fields) -> tuple[Json, str]:
    """The ``schema`` or ``regex`` option, and the field that says it; {} and "" if there is none.

    Raises `ApiError`. Chat completions use ``response_format``, responses ``text.format``, messages
    ``output_config.format``, vLLM's clients ``guided_json``, ``guided_regex``, ``guided_choice``
    or ``structured_outputs``, llama.cpp's ``json_schema``.
    """
    found: dict[str, Json] = {}
    for name in ("response_format", "output_format"):
        _add(found, name, fields.object(name))
    for name in ("text", "output_config"):
        if outer := fields.object(name):
            _add(found, f"{name}.format", outer.object("format"))
    for name in ("guided_json", "json_schema", "guided_regex"):
        if (value := fields.raw(name)) not in (None, ""):
            found[name] = {"regex" if name == "guided_regex" else "schema": value}
    if (choices := fields.raw("guided_choice")) not in (None, []):
        found["guided_choice"] = _one_of(choices, "guided_choice")
    if structured := fields.object("structured_outputs"):
        found |= _structured(structured)
    if len(found) > 1:
        names = " and ".join(found)
        raise ApiError(400, f"{names}: an answer has one form", param=next(iter(found)))
    place, option = next(iter(found.items()), ("", {}))
    return option, place


def _add(found: dict[str, Json], name: str, form: Fields | None) -> None:
    """Add the option of a format object to `found`; a ``json_schema`` may be nested or flat.

    A ``json_object`` may have a schema too, as at llama.cpp, Together and Fireworks.
    """
    kind = None if form is None else form.text("type")
    if form is None or kind == "text":
        return
    if kind == "json_object" and form.raw("schema") is None:
        found[name] = {"schema": {"type": "object"}}
        return
    if kind not in ("json_object", "json_schema"):
        raise refused(f"{name}.type", kind, "expected text, json_object or json_schema")
    inner = form.object("json_schema")
    schema = form.raw("schema") if inner is None else inner.raw("schema")
    where = f"{name}.schema" if inner is None else f"{name}.json_schema.schema"
    if not isinstance(schema, dict):
        raise refused(where, schema, "expected a JSON schema")
    found[where] = {"schema": schema}


def _structured(value: Fields) -> dict[str, Json]:
    asked = {name: value.raw(name) for name in ("json", "regex", "choice", "json_object")}
    for name in value.unknown():
        given = value.raw(name.removeprefix(value.where))
        if given not in (None, False):  # vLLM's clients send every field
            raise refused(name, given, "expected json, json_object, regex or choice")
    found: dict[str, Json] = {}
    if asked["json"] is not None:
        found["structured_outputs.json"] = {"schema": asked["json"]}
    if asked["regex"] is not None:
        found["structured_outputs.regex"] = {"regex": asked["regex"]}
    if asked["choice"]:
        name = "structured_outputs.choice"
        found[name] = _one_of(asked["choice"], name)
    if asked["json_object"]:
        found["structured_outputs.json_object"] = {"schema": {"type": "object"}}
    return found


def _one_of(texts: Any, name: str) -> Json:
    """The ``regex`` option that only these texts match. Raises `ApiError`."""
    if not isinstance(texts, list) or not all(isinstance(one, str) and one for one in texts):
        raise refused(name, texts, "expected a list of texts that aren't empty")
    return {"regex": "|".join(map(re.escape, texts))}


def choice(value: Any) -> Json:
    """The ``tool_choice`` option; {} if the model is free to call. Raises `ApiError`.

    Accepts the values of all dialects: ``"required"``, ``{"type": "any"}``, a function by its
    name, or a list of allowed tools.
    """
    kind = value.get("type") if isinstance(value, Mapping) else value
    if kind in (None, "auto") and (value is None or kind == "auto"):
        return {}
    if kind == "none":
        return {"tool_choice": "none"}
    if kind in ("required", "any"):
        return {"tool_choice": "required"}
    if kind in ("function", "tool") and isinstance(value, Mapping):
        function = value.get("function", value)
        name = function.get("name") if isinstance(function, Mapping) else None
        if isinstance(name, str):
            return {"tool_choice": {"name": name}}
    if kind == "allowed_tools" and isinstance(value, Mapping):
        try:
            return {"tool_choice": plain_tool_choice(value)}
        except OptionError as error:
            raise ApiError(400, str(error), param="tool_choice") from None
    expected = "expected auto, none, required, allowed_tools, or a function by its name"
    raise refused("tool_choice", value, expected)

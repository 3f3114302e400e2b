"""Strict parsing of a request's JSON: a field of the wrong type is a 400 that names it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from qwen3_mlx.errors import MessageError
from qwen3_mlx.serve.api_error import ApiError, refused
from qwen3_mlx.serve.harmless_fields import ELSEWHERE, HARMLESS, HARMLESS_WITHIN, INSTEAD, OBJECTS
from qwen3_mlx.text.tools import function_of, normalise_tools

_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "text": (str, "text"),
    "integer": (int, "a whole number"),
    "number": ((int, float), "a number"),
    "flag": (bool, "true or false"),
    "list": (list, "a list"),
    "object": (dict, "an object"),
}


LARGEST = 2**63 - 1
"""Largest whole number: larger ones could exceed the number of digits that Python prints."""


LEAST_TOP_P = 1e-9
"""What a ``top_p`` of 0 means, which OpenAI's range includes: the likeliest token alone."""


class Fields:
    """A JSON object of a request; records which fields were read, so the rest are unknown.

    Every reader returns None for a missing or null field, and raises `ApiError` for a wrong type.
    """

    def __init__(self, body: Any, where: str = "") -> None:
        if not isinstance(body, dict):
            error = refused(where or "the body", body, "expected a JSON object")
            error.param = where or None
            raise error
        self._body: dict[str, Any] = body
        self.where = f"{where}." if where else ""
        self._taken: set[str] = set()
        self._within: dict[str, Fields] = {}

    def raw(self, name: str) -> Any:
        """The value of a field of any type; None if the field is missing."""
        self._taken.add(name)
        return self._body.get(name)

    def _take(self, name: str, kind: str) -> Any:
        value = self.raw(name)
        if kind == "integer" and isinstance(value, float) and value.is_integer():
            value = int(value)  # JSON has only one number type: 16.0 is 16
        if type(value) is int and abs(value) > LARGEST:
            raise refused(f"{self.where}{name}", value, "expected a number of 64 bits")
        types, expected = _KINDS[kind]
        wrong_bool = isinstance(value, bool) and kind != "flag"
        not_finite = isinstance(value, float) and not math.isfinite(value)
        if value is not None and (wrong_bool or not_finite or not isinstance(value, types)):
            raise refused(f"{self.where}{name}", value, f"expected {expected}")
        return value

    def text(self, name: str) -> str | None:
        """Read a string."""
        return self._take(name, "text")

    def integer(self, name: str) -> int | None:
        """Read a whole number of at most 64 bits; 16.0 counts as 16."""
        return self._take(name, "integer")

    def limit(self, name: str) -> int | None:
        """Read a whole number of which -1 means no limit, as LM Studio's clients send it: None."""
        value = self.integer(name)
        return None if value == -1 else value

    def number(self, name: str) -> float | None:
        """Read a finite number."""
        return self._take(name, "number")

    def flag(self, name: str) -> bool | None:
        """Read true or false."""
        return self._take(name, "flag")

    def items(self, name: str) -> list[Any] | None:
        """Read a list; its items are not checked."""
        return self._take(name, "list")

    def object(self, name: str) -> Fields | None:
        """Read a nested object; errors name its fields by their full path."""
        value = self._take(name, "object")
        if value is None:
            return None
        return self._within.setdefault(name, Fields(value, f"{self.where}{name}"))

    def refuse(self, values: Mapping[str, Iterable[Any]]) -> None:
        """Raise `ApiError` for a field of `values` that is set to none of its harmless values."""
        for name, fine in values.items():
            value = self.raw(name)
            if value is not None and not any(_same(value, one) for one in fine):
                hint = INSTEAD.get(name, "leave it out")
                why = f"this server can't honour it\nhint: {hint}"
                raise refused(f"{self.where}{name}", value, why)

    def unknown(self) -> list[str]:
        """The fields that were not read, except those of `HARMLESS`; of `OBJECTS` those within."""
        fine = self._taken | HARMLESS | (HARMLESS_WITHIN if self.where else frozenset())
        names = [f"{self.where}{name}" for name in self._body if name not in fine]
        inner = [one for name, one in self._within.items() if name in OBJECTS]
        return names + [name for one in inner for name in one.unknown()]


def _same(value: Any, fine: Any) -> bool:
    """Whether two JSON values are equal: 1.0 is 1, but true isn't, as Python has it."""
    return isinstance(value, bool) == isinstance(fine, bool) and bool(value == fine)


def sampling(fields: Fields) -> dict[str, Any]:
    """The sampling options that are set; all dialects use the same names."""
    numbers = (
        *("temperature", "top_p", "min_p", "presence_penalty"),
        *("repetition_penalty", "frequency_penalty"),
    )
    found: dict[str, Any] = {name: fields.number(name) for name in numbers}
    found |= {name: fields.integer(name) for name in ("top_k", "min_tokens", "seed")}
    if found["seed"] is not None and found["seed"] < 0:
        found["seed"] = None  # random, as vLLM, llama.cpp and LM Studio understand -1
    if found["top_k"] is not None:
        found["top_k"] = max(found["top_k"], 0)  # vLLM's clients send -1 for off
    if found["top_p"] == 0:
        found["top_p"] = LEAST_TOP_P
    bias = fields.object("logit_bias")
    found["logit_bias"] = None if bias is None else dict(bias._body)
    return {name: value for name, value in found.items() if value is not None}


def stop_texts(fields: Fields, name: str = "stop") -> dict[str, Any]:
    """The ``stop`` option from a string or a list of strings; {} without stop sequences."""
    value = fields.raw(name)
    texts = [value] if isinstance(value, str) else value
    if texts is None or texts == []:
        return {}
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise refused(f"{fields.where}{name}", value, "expected text or a list of texts")
    kept = [text for text in texts if text]
    return {"stop": kept} if kept else {}


def required(value: Any, name: str, body: Any = None) -> Any:
    """`value`. Raises `ApiError` (400) if the field is missing, that is None.

    If `body` has what another path takes in its place, the error names that path.
    """
    if value is None:
        given = body if isinstance(body, dict) else {}
        where = [(one, path) for one, path in ELSEWHERE.items() if given.get(one) is not None]
        hint = "".join(f"\nhint: {one} belongs to {path}" for one, path in where[:1])
        raise ApiError(400, f"{name} is missing{hint}", param=name, code="missing_field")
    return value


def tools(
    given: list[Any], as_chat: Callable[[dict[str, Any]], dict[str, Any] | None]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The functions among the tools `given`, and the names of the others, which can't run here.

    One that is given twice alike counts once; two that share a name only are refused, since a call
    couldn't say which it means. as_chat: gives a tool in chat completions' form, or None for a
    non-function. Raises `ApiError`.
    """
    kept: dict[str, dict[str, Any]] = {}
    others: list[str] = []
    for n, tool in enumerate(given):
        if not isinstance(tool, dict):
            raise refused(f"tools[{n}]", tool, "expected an object")
        function = as_chat(tool)
        if function is None:
            others.append(f"tools[{n}] ({tool.get('type')})")
            continue
        checked = _checked(function, f"tools[{n}]", tool)
        name = function_of(checked)["name"]
        if kept.setdefault(name, checked) != checked:
            raise refused(f"tools[{n}].name", name, "another tool has this name")
    return list(kept.values()), others


def _checked(tool: dict[str, Any], where: str, given: dict[str, Any]) -> dict[str, Any]:
    """The function validated for templates, grammars and parsers of calls.

    Raises `ApiError`, which names the field as in the tool `given`.
    """
    try:
        found = (normalise_tools([_with_schema(tool)]) or [tool])[0]
    except MessageError as error:
        said = str(error)
        if "function" not in given:  # not in chat completions' form, which the hint explains
            schema = ".input_schema" if "input_schema" in given else ".parameters"
            said = error.summary.replace(".function", "", 1).replace(".parameters", schema, 1)
        raise ApiError(400, said.replace("tools[0]", where, 1), param=where) from None
    strict = function_of(found).get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise refused(f"{where}.strict", strict, "expected true or false")
    return found


def _with_schema(tool: dict[str, Any]) -> dict[str, Any]:
    """`tool` with a JSON schema as its parameters, if they are a list in Qwen-Agent's form."""
    function = tool.get("function")
    given = function.get("parameters") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(given, list):
        return tool
    if not all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in given):
        return tool
    beside = ("name", "required")
    properties = {
        one["name"]: {key: value for key, value in one.items() if key not in beside}
        for one in given
    }
    required = [one["name"] for one in given if one.get("required") is True]
    schema = {"type": "object", "properties": properties, "required": required}
    return {**tool, "function": {**function, "parameters": schema}}

"""What stands between <tool_call> and </tool_call>: Hermes JSON, or the Coder's XML.

Hermes (2504, 2507):  {"name": "f", "arguments": {"key": value}}
Coder:                <function=f> <parameter=key> value </parameter> </function>
"""

from __future__ import annotations

import json
import re
from typing import Any

from qwen3_mlx.events import ToolCall

_FUNCTION = re.compile(r"<function=([^<>\s]+)>(.*)</function>", re.DOTALL)
# A value may hold "</parameter>" itself, so it ends only where the next parameter or the end is.
_PARAMETER = re.compile(
    r"\s*<parameter=([^<>\s]+)>\n?(.*?)\n?</parameter>(?=\s*(?:<parameter=|$))", re.DOTALL
)


def parse_tool_call(text: str) -> ToolCall:
    """The call in `text` (without the tags around it). Raises `ValueError` if it is none."""
    text = text.strip()
    return _coder(text) if text.startswith("<function=") else _hermes(text)


def _hermes(text: str) -> ToolCall:
    call = _json(text)
    if not isinstance(call, dict) or not isinstance(call.get("name"), str) or not call["name"]:
        raise ValueError("a tool call is a JSON object with a name")
    arguments = call.get("arguments")
    if isinstance(arguments, str):
        arguments = _json(arguments)
    if arguments is None:  # a function that takes none
        arguments = {}
    if not isinstance(arguments, dict):
        raise ValueError("the arguments of a tool call are a JSON object")
    return ToolCall(call["name"], arguments)


def _coder(text: str) -> ToolCall:
    function = _FUNCTION.fullmatch(text)
    if function is None:
        raise ValueError("a tool call ends in </function>")
    name, body = function[1], function[2].rstrip()
    arguments, position = {}, 0
    while position < len(body):
        parameter = _PARAMETER.match(body, position)
        if parameter is None:
            raise ValueError("a function holds nothing but parameters")
        arguments[parameter[1]] = _value(parameter[2])
        position = parameter.end()
    return ToolCall(name, arguments)


def _value(text: str) -> Any:
    """JSON where it is an object, array, number or boolean; otherwise the text as it stands."""
    try:
        value = _json(text)
    except ValueError:
        return text
    return value if isinstance(value, dict | list | int | float) else text


def _json(text: str) -> Any:
    """Strict JSON: no NaN or infinities, no lone surrogates, no absurd nesting."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value

"""Parses the text between <tool_call> and </tool_call>: Hermes JSON, or the Coder's XML.

Hermes (2504, 2507):  {"name": "f", "arguments": {"key": value}}
Coder:                <function=f> <parameter=key> value </parameter> </function>

A damaged call with a single possible meaning is repaired, as in vLLM, SGLang and llama.cpp. An
ambiguous text is not a call: the chat shows it as text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from qwen3_mlx.events import ToolCall
from qwen3_mlx.text.argument_types import ArgumentTypes, python_literal
from qwen3_mlx.text.coder_call import FUNCTION, read_functions
from qwen3_mlx.text.loose_json import Repeated, loose_values
from qwen3_mlx.text.tools import function_of

_FENCE = re.compile(r"```\w*\s*\n?(.*?)\n?\s*(?:```)?\s*", re.DOTALL)
_ARGUMENTS = ("arguments", "parameters")
_BESIDE = {"name", "id", "type", "function", "index", "tool_call_id", *_ARGUMENTS}

Tools = Sequence[Mapping[str, Any]]


class Offer:
    """The names and parameter types of the tools on offer; None: the tools are not known."""

    def __init__(self, tools: Tools | None) -> None:
        self.known = tools is not None
        functions = [function_of(tool) for tool in tools or ()]
        self._types = {
            str(one.get("name")): ArgumentTypes(one.get("parameters")) for one in functions
        }
        self._unknown = ArgumentTypes(None)

    @property
    def nothing(self) -> bool:
        """Whether the tools are known, and there are none."""
        return self.known and not self._types

    def has(self, name: str) -> bool:
        """Whether a tool of that name is known to be on offer."""
        return name in self._types

    def types(self, name: str) -> ArgumentTypes:
        """The types of the tool's parameters; for an unknown tool, none are declared."""
        return self._types.get(name, self._unknown)


def parse_tool_call(text: str, tools: Tools | None = None) -> ToolCall:
    """The call in `text`, given without its tags. Raises `ValueError` unless it is one call."""
    calls = parse_tool_calls(text, Offer(tools))
    if len(calls) != 1:
        raise ValueError(f"{len(calls)} tool calls")
    return calls[0]


def parse_tool_calls(text: str, offer: Offer) -> list[ToolCall]:
    """The calls in `text`, at least one. Raises `ValueError` if it contains anything else."""
    text = text.strip()
    if fenced := _FENCE.fullmatch(text):
        text = fenced[1].strip()
    if FUNCTION.match(text):
        functions = read_functions(text, offer.types, offer.has, offer.known)
        return [ToolCall(name, arguments) for name, arguments in functions]
    try:
        values = loose_values(text)
    except ValueError:
        if not isinstance(value := python_literal(text), dict | list):
            raise
        values = [value]
    calls = [_hermes(one) for value in values for one in _calls_in(value)]
    if not calls:
        raise ValueError("no tool call")
    return calls


def _calls_in(value: Any) -> list[Any]:
    if isinstance(value, dict) and set(value) == {"tool_calls"}:
        value = value["tool_calls"]
    return value if isinstance(value, list) else [value]


def _hermes(call: Any) -> ToolCall:
    if isinstance(call, dict) and isinstance(call.get("function"), dict) and "name" not in call:
        call = call["function"]
    if not isinstance(call, dict):
        raise ValueError("a tool call is a JSON object")
    name = call.get("name", call.get("function"))
    if not isinstance(name, str) or not name.strip():
        raise ValueError("a tool call has a name")
    if not _BESIDE.issuperset(call):
        raise ValueError("a tool call has a name and arguments, nothing else")
    if isinstance(call, Repeated) and call.repeated & {"name", *_ARGUMENTS}:
        raise ValueError("a tool call has one name and one set of arguments")
    return ToolCall(name.strip(), _arguments(call))


def _arguments(call: dict[str, Any]) -> dict[str, Any]:
    present = [name for name in _ARGUMENTS if name in call]
    if len(present) > 1 and call[present[0]] != call[present[1]]:
        raise ValueError("a tool call has one set of arguments")
    arguments = call[present[0]] if present else {}
    if isinstance(arguments, str):
        values = loose_values(arguments) if arguments.strip() else [{}]
        arguments = values[0] if len(values) == 1 else None
        if arguments is None:
            raise ValueError("arguments that are no JSON object")
    if arguments is None:  # JSON null: a function without parameters
        arguments = {}
    if not isinstance(arguments, dict):
        raise ValueError("the arguments of a tool call are a JSON object")
    if present == ["parameters"] and isinstance(arguments.get("properties"), dict):
        raise ValueError("a tool's schema, not a call of it")
    return arguments

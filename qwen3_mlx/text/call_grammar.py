"""Grammars of tool calls, in the two forms that Qwen3's templates prescribe.

Between ``<tool_call>`` and ``</tool_call>``, each on its own line, is either the Hermes form (2504,
2507), ``{"name": "f", "arguments": {…}}``, or the Coder's: ``<function=f>``, for each parameter
``<parameter=key>``, its value and ``</parameter>``, then ``</function>``, all on their own lines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qwen3_mlx.errors import OptionError
from qwen3_mlx.text.argument_types import ArgumentTypes
from qwen3_mlx.text.grammar import Grammar, json_rule
from qwen3_mlx.text.tokenizer import TOOL_CLOSE, TOOL_OPEN, Tokenizer
from qwen3_mlx.text.tool_calls import Tools
from qwen3_mlx.text.tools import function_of

_BARE = r"<\s*function(\s*=|\s+name)"
"""The beginning of a call without <tool_call>: excluded from text, as the splitter reads a call."""
_NO_CALL = f"TEXT: /(?s:.*)/ & ~/(?s:.*)({TOOL_OPEN}|{_BARE})(?s:.*)/\n"
_FREE_BY_TOKEN = f"start: text (OPENED rest text)*\ntext: TEXT\n{_NO_CALL}"
"""Text and calls in any order, if <tool_call> is a token: text can't contain it."""
_FREE_BY_TEXT = (
    "start: (before rest)* text\n"
    "before[lazy]: PLAIN OPENED\n"
    "text: TEXT\n"
    f"PLAIN: /(?s:.*)/ & ~/(?s:.*){_BARE}(?s:.*)/\n"
    f"{_NO_CALL}"
)
"""Text and calls in any order, if <tool_call> is spelled in letters: it ends the text."""
_NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class CallChoice:
    """Which tools may be called, and whether a call is required."""

    certain: bool = False
    """True: the answer is one call or more, without text; False: text and calls in any order."""
    names: tuple[str, ...] | None = None
    """The tools that may be called; None: all."""
    once: bool = False
    """With `certain`: exactly one call."""


_END = '"\\n</parameter>\\n"'
_LENGTHS = ("minLength", "maxLength")


def call_grammar(tools: Tools, tokenizer: Tokenizer, choice: CallChoice, *, coder: bool) -> Grammar:
    """The grammar of the calls of `tools` that `choice` requires or allows.

    Arguments follow the tool's schema; its unsupported keywords are ignored unless the tool is
    ``strict``. Raises `OptionError` for an unknown name, or an unsupported schema.
    """
    functions = [function_of(tool) for tool in tools]
    known = [one["name"] for one in functions]
    if unknown := [name for name in choice.names or () if name not in known]:
        offered = ", ".join(map(str, known)) or "no tools"
        raise OptionError("tool_choice", got=unknown[0], expected=f"a tool on offer: {offered}")
    chosen = [one for one in functions if choice.names is None or one["name"] in choice.names]
    rule = _coder_rules if coder else _hermes_rules
    rules = [line for n, one in enumerate(chosen) for line in rule(f"call{n}", one)]
    opened = _marker(tokenizer.tool_open, TOOL_OPEN)
    closed = _marker(tokenizer.tool_close, TOOL_CLOSE)
    if choice.certain:
        more = "" if choice.once else ' ("\\n" call)*'
        start = f"start: call{more}\ncall: {opened} rest\n"
    else:
        start = _FREE_BY_TOKEN if tokenizer.tool_open is not None else _FREE_BY_TEXT
        start = start.replace("OPENED", opened)
    return Grammar(
        f'{start}rest: "\\n" function "\\n" {closed}\n'
        f"function: {' | '.join(f'call{n}' for n in range(len(chosen)))}\n"
        + "".join(f"{line}\n" for line in rules),
        "tools",
    )


def no_call_grammar() -> Grammar:
    """The grammar of a text without calls, for an answer whose prompt offers tools."""
    return Grammar(f"start: TEXT\n{_NO_CALL}", "tools")


def _marker(token: int | None, spelled: str) -> str:
    return _text(spelled) if token is None else f"<[{token}]>"


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _parameters(function: Mapping[str, Any]) -> dict[str, Any]:
    return dict(function.get("parameters") or _NOTHING)


def _hermes_rules(rule: str, function: Mapping[str, Any]) -> Iterator[str]:
    schema = {**_parameters(function), "type": "object"}
    name, lenient = function["name"], not function.get("strict")
    before = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": '
    yield f'{rule}: {_text(before)} {rule}_arguments "}}"'
    yield f"{rule}_arguments: {json_rule(schema, f'the schema of the tool {name}', lenient)}"


def _coder_rules(rule: str, function: Mapping[str, Any]) -> Iterator[str]:
    schema, name = _parameters(function), function["name"]
    required = set(schema.get("required") or [])
    types = ArgumentTypes(schema)
    values: list[str] = []
    parts: list[str] = []
    for n, key in enumerate(schema.get("properties") or {}):
        parts.append(f"{rule}_{n}" + ("" if key in required else "?"))
        before = _text(f"<parameter={key}>\n")
        value = _value(schema, key, types, function)
        values.append(f"{rule}_{n}: {before} {rule}_{n}_value" + (f" {_END}" if value else ""))
        values.append(f"{rule}_{n}_value{f': {value}' if value else _any_text(schema, key)}")
    yield " ".join([f"{rule}: {_text(f'<function={name}>' + chr(10))}", *parts, '"</function>"'])
    yield from values


def _any_text(schema: Mapping[str, Any], key: str) -> str:
    """The rest of a Lark rule: text up to the first ``</parameter>``, within the length limits."""
    one: Any = schema["properties"][key]
    limits = [one.get(name) if isinstance(one, Mapping) else None for name in _LENGTHS]
    least, most = (n if type(n) is int and n >= 0 else None for n in limits)
    often = "*" if least is most is None else f"{{{least or 0},{'' if most is None else most}}}"
    return f"[suffix={_END}]: /(?s:.{often})/"


def _value(
    schema: Mapping[str, Any], key: str, types: ArgumentTypes, function: Mapping[str, Any]
) -> str:
    """A parameter's value in Lark: an enum's members, or JSON; "" if any text is allowed."""
    one: Any = schema["properties"][key]
    members = one.get("enum") if isinstance(one, Mapping) else None
    if members and all(isinstance(member, str) for member in members):
        return " | ".join(_text(member) for member in members)
    if types.may_be_text(key):
        return ""
    shared = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    what = f"the schema of {function['name']}'s {key}"
    return json_rule({**shared, **one}, what, lenient=not function.get("strict"))

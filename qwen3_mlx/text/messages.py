"""Normalises messages in all shapes of OpenAI's API to the one that chat templates read."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Required, TypedDict

from qwen3_mlx.errors import MessageError, brief
from qwen3_mlx.events import ToolCall
from qwen3_mlx.text.result_order import in_call_order
from qwen3_mlx.text.thought_parts import with_thought_apart

MessageLike = Mapping[str, Any]
"""A message in any accepted shape, without the checks of the TypedDicts below."""


class TextPart(TypedDict):
    """One part of a message's content when that is a list."""

    type: Literal["text"]
    text: str


Content = str | Sequence[TextPart] | None


class CalledFunction(TypedDict, total=False):
    """The function of a tool call; `arguments` is a dict or its JSON text, empty for none."""

    name: Required[str]
    arguments: Mapping[str, Any] | str | None


class RequestedCall(TypedDict, total=False):
    """A tool call in an assistant message."""

    id: str
    type: Literal["function"]
    function: Required[CalledFunction]


class SystemMessage(TypedDict, total=False):
    """Instructions for the model; ``developer`` is OpenAI's newer name of the role."""

    role: Required[Literal["system", "developer"]]
    content: Content
    name: str


class UserMessage(TypedDict, total=False):
    """A message of the user."""

    role: Required[Literal["user"]]
    content: Content
    name: str


class AssistantMessage(TypedDict, total=False):
    """A message of the model; ``reasoning`` and ``thinking`` are aliases of reasoning_content."""

    role: Required[Literal["assistant"]]
    content: Content
    reasoning_content: str | None
    reasoning: str | None
    thinking: str | None
    tool_calls: Sequence[RequestedCall | ToolCall] | None
    function_call: CalledFunction | None
    name: str


class ToolMessage(TypedDict, total=False):
    """A tool's result; a `content` that is neither text nor a list of parts becomes JSON text."""

    role: Required[Literal["tool", "function"]]
    content: Any
    tool_call_id: str
    name: str


Message = SystemMessage | UserMessage | AssistantMessage | ToolMessage
"""A message in the form of OpenAI's Chat Completions API."""

ROLES = ("system", "user", "assistant", "tool")
_SAME_ROLE = {"developer": "system", "function": "tool"}
_NO_CONTENT = ("text", "parts", "message", "value")
"""What other formats call it (ShareGPT's, Gemini's)."""
_TEXT_PARTS = ("text", "input_text", "output_text")
_MAX_DEPTH = 128  # levels of nested lists and dicts; tools' schemas have about 10

# Subclasses such as Enum members and numpy's floats have extra methods that a template could
# call; these functions make plain scalars of them.
_SUBCLASSED: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
)


def normalise(messages: object, *, parse_arguments: bool = False) -> list[dict[str, Any]]:
    """Copies of `messages` with a str in every ``content``, made of JSON's types only.

    With `parse_arguments`, tool calls' arguments given as JSON text become dicts. Tool results
    come in the order of the calls whose ids they name. Raises `MessageError`, which names the
    message by its index, and the field.
    """
    if not isinstance(messages, list | tuple) or not messages:
        hint = "put it in a list: [message]" if isinstance(messages, Mapping) else None
        expected = "a list with at least one message"
        raise MessageError("messages", got=brief(messages), expected=expected, hint=hint)
    found = [_message(m, f"messages[{n}]", parse_arguments) for n, m in enumerate(messages)]
    return in_call_order(found)


def joined_text(content: object) -> str:
    """The text of a message's content: the str, or its text parts joined by newlines; else ""."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list | tuple) else ()
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    return "\n".join(text for text in texts if isinstance(text, str))


def _message(message: object, where: str, parse_arguments: bool) -> dict[str, Any]:
    role = message.get("role") if isinstance(message, Mapping) else None
    role = _SAME_ROLE.get(role, str.__str__(role)) if isinstance(role, str) else None
    if not isinstance(message, Mapping) or role not in ROLES:
        expected = f"a dict whose role is one of {', '.join(ROLES)}"
        raise MessageError(where, got=brief(message), expected=expected)
    message = with_thought_apart(message) if role == "assistant" else message
    # Other programs write "name": null; templates only test whether a field is present.
    special = ("role", "content", "tool_calls", "function_call")
    fields: dict[str, Any] = {"role": role, "content": _content(message, role, where)}
    fields |= {
        _valid(str(name), where): json_value(value, f"{where}.{name}")
        for name, value in message.items()
        if value is not None and name not in special
    }
    if role == "assistant":
        _add_thought(fields, where)
        _add_calls(fields, message, where, parse_arguments)
    return fields


def _content(message: Mapping[str, Any], role: str, where: str) -> str:
    content, refusal = message.get("content"), message.get("refusal")
    if role == "assistant" and content in (None, "") and refusal is not None:
        return _text(refusal, f"{where}.refusal", "text")  # what OpenAI's models say in its place
    where = f"{where}.content"
    if content is None:
        _check_names(message, where)
        return ""
    if isinstance(content, list | tuple) and (role != "tool" or _are_parts(content)):
        return "\n".join(_part(part, f"{where}[{n}]") for n, part in enumerate(content))
    if role == "tool" and not isinstance(content, str | bytes):
        return json.dumps(json_value(content, where), ensure_ascii=False)
    return _text(content, where, "text or a list of text parts")


def _check_names(message: Mapping[str, Any], where: str) -> None:
    """Raise `MessageError` if a message without a content has one by another name."""
    for name in map(str, message.keys() - {"content"}):
        if name in _NO_CONTENT or difflib.get_close_matches(name, ["content"], cutoff=0.8):
            raise MessageError(where, got=f"a message with {name!r}", expected="content")


def _are_parts(values: Sequence[object]) -> bool:
    """Whether a tool message's list is made of content parts, not a result that is a list."""
    kinds = (*_TEXT_PARTS, "refusal", "image", "image_url", "input_image", "input_audio", "file")
    return bool(values) and all(isinstance(v, Mapping) and v.get("type") in kinds for v in values)


def _part(part: object, where: str) -> str:
    if isinstance(part, str):
        return _text(part, where, "text")
    kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
    if isinstance(part, Mapping) and kind in _TEXT_PARTS:
        return _text(part.get("text"), f"{where}.text", "text")
    if isinstance(part, Mapping) and kind == "refusal":
        return _text(part.get("refusal"), f"{where}.refusal", "text")
    hint = "Qwen3 reads text only: leave this part out, or put what it says into words"
    raise MessageError(where, got=f"a part of type {kind!r}", expected="a text part", hint=hint)


def _text(value: object, where: str, expected: str) -> str:
    if not isinstance(value, str):
        raise MessageError(where, got=f"{type(value).__name__} {value!r:.60}", expected=expected)
    text: str = json_value(value, where)
    return text


def _add_thought(fields: dict[str, Any], where: str) -> None:
    for name in ("reasoning_content", "thinking", "reasoning"):
        if name in fields:
            thought = _text(fields[name], f"{where}.{name}", "text")
            fields.setdefault("reasoning_content", thought)


def _add_calls(fields: dict[str, Any], message: Mapping[str, Any], where: str, parse: bool) -> None:
    calls, legacy = message.get("tool_calls"), message.get("function_call")
    if calls is None and legacy is not None:
        function = _function(legacy, f"{where}.function_call", parse)
        fields["tool_calls"] = [{"type": "function", "function": function}]
    elif calls is not None:
        if not isinstance(calls, list | tuple):
            got = f"{type(calls).__name__} {calls!r:.60}"
            raise MessageError(f"{where}.tool_calls", got=got, expected="a list of tool calls")
        fields["tool_calls"] = [
            _call(call, f"{where}.tool_calls[{n}]", parse) for n, call in enumerate(calls)
        ]


def _call(call: object, where: str, parse: bool) -> dict[str, Any]:
    if isinstance(call, ToolCall):
        if call.id:
            return _call(call.as_message(), where, parse)
        return _function({"name": call.name, "arguments": call.arguments}, where, parse)
    if isinstance(call, Mapping) and "function" in call:
        others = {k: v for k, v in call.items() if k != "function" and v is not None}
        function = _function(call["function"], f"{where}.function", parse)
        return {**json_value(others, where), "function": function}
    return _function(call, where, parse)


def _function(function: object, where: str, parse: bool) -> dict[str, Any]:
    if not isinstance(function, Mapping):
        expected = "a dict with name and arguments"
        raise MessageError(where, got=f"{type(function).__name__}", expected=expected)
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise MessageError(f"{where}.name", got=brief(name), expected="a function's name")
    fields: dict[str, Any] = json_value(
        {k: v for k, v in function.items() if k != "arguments" and v is not None}, where
    )
    fields["arguments"] = _arguments(function.get("arguments"), f"{where}.arguments", parse)
    return fields


def _arguments(value: object, where: str, parse: bool) -> Any:
    if value is None or (isinstance(value, str) and not value.strip()):
        return {}
    if isinstance(value, str) and parse:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            expected = "a JSON object: this model's template writes arguments one by one"
            raise MessageError(where, got=brief(value), expected=expected) from None
    if not isinstance(value, Mapping if parse else Mapping | str):
        got = f"{type(value).__name__} {value!r:.60}"
        raise MessageError(where, got=got, expected="an object, or its JSON")
    return json_value(value, where)


def json_value(value: object, where: str, depth: int = 0) -> Any:
    """A deep copy of JSON's types only, as a template could call the methods of other types.

    Raises `MessageError`, naming `where`, for other types, lone surrogates, and more than
    `_MAX_DEPTH` levels of nesting.
    """
    if value is None or type(value) in (bool, int, float):
        return value
    if depth > _MAX_DEPTH:
        got = f"values nested too deeply, by more than {_MAX_DEPTH} levels"
        raise MessageError(where.partition(".")[0], got=got)
    for kind, convert in _SUBCLASSED:
        if isinstance(value, kind):
            return _valid(convert(value), where)
    if isinstance(value, Mapping):
        items = [(_valid(str(key), where), item) for key, item in value.items()]
        return {key: json_value(item, f"{where}.{key}", depth + 1) for key, item in items}
    if isinstance(value, list | tuple):
        return [json_value(item, f"{where}[{n}]", depth + 1) for n, item in enumerate(value)]
    if isinstance(value, ToolCall):
        return json_value({"name": value.name, "arguments": value.arguments}, where, depth)
    expected = "text, numbers, booleans, lists and dicts"
    raise MessageError(where, got=type(value).__name__, expected=expected)


def _valid(value: Any, where: str) -> Any:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            got = f"a lone surrogate at character {error.start}: bytes that were not UTF-8"
            hint = "decode them with the encoding they have, or with errors='replace'"
            expected = "valid Unicode"
            raise MessageError(where, got=got, expected=expected, hint=hint) from None
    return value

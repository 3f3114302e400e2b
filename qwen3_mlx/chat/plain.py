"""Messages and options converted to JSON's types for files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from qwen3_mlx.errors import OptionError, SessionError, shown
from qwen3_mlx.events import ToolCall
from qwen3_mlx.options import GenerationOptions
from qwen3_mlx.options.auto_budget import AutoBudget

Messages = Sequence[Mapping[str, Any]]


def are_messages(value: object) -> bool:
    """Whether `value` is a list of dicts with a role; their content is not checked."""
    return isinstance(value, list) and all(
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("tool_calls"), list | tuple | None)
        for message in value
    )


def checked_messages(value: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`value`, a session's list that anybody may edit, if `are_messages`; else `OptionError`."""
    if not are_messages(value):
        got, hint = shown(value)[:80], "session.messages = [] begins anew"
        raise OptionError("messages", got=got, expected="a list of messages", hint=hint)
    return value


def are_options(value: object) -> bool:
    """Whether `value` is a dict whose keys are fields of `GenerationOptions`."""
    known = {field.name for field in fields(GenerationOptions)}
    return isinstance(value, dict) and known.issuperset(value)


def explicit(options: GenerationOptions) -> dict[str, Any]:
    """The options that are set, by name; those left to the model (None) are omitted."""
    found = {key: value for key, value in asdict(options).items() if value is not None}
    if isinstance(options.budget, AutoBudget):
        found["thinking_budget"] = options.budget.plain()
    return found


def as_plain(messages: Messages) -> list[dict[str, Any]]:
    """Deep copies in JSON's types. Raises `SessionError` for a value JSON can't represent."""
    try:
        plain = json.loads(json.dumps(list(messages), default=_plain))
    except (TypeError, ValueError, RecursionError) as error:
        hint = "messages are dicts of text, numbers, booleans and lists"
        raise SessionError("a message can't be kept", got=str(error), hint=hint) from None
    result: list[dict[str, Any]] = plain
    return result


def _plain(value: object) -> Any:
    if isinstance(value, ToolCall):
        return {"name": value.name, "arguments": value.arguments}
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__}, which JSON has no form for")

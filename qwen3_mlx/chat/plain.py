"""Messages and options in JSON's types, as files hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from qwen3_mlx.auto_budget import AutoBudget
from qwen3_mlx.errors import SessionError
from qwen3_mlx.events import ToolCall
from qwen3_mlx.options import GenerationOptions

Messages = Sequence[Mapping[str, Any]]


def are_messages(value: object) -> bool:
    """Whether this is a list of messages: any content that can be sent, and a role."""
    return isinstance(value, list) and all(
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("tool_calls"), list | None)
        for message in value
    )


def are_options(value: object) -> bool:
    """Whether this is an object with names of options."""
    known = {field.name for field in fields(GenerationOptions)}
    return isinstance(value, dict) and known.issuperset(value)


def explicit(options: GenerationOptions) -> dict[str, Any]:
    """The options that are not left to the model."""
    found = {key: value for key, value in asdict(options).items() if value is not None}
    if isinstance(options.budget, AutoBudget):
        found["thinking_budget"] = options.budget.plain()
    return found


def as_plain(messages: Messages) -> list[dict[str, Any]]:
    """Copies made of JSON's types. Raises `SessionError` where there is no such copy."""
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

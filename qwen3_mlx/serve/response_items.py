"""Converts the items of ``/v1/responses`` to messages of the chat template."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from typing import Any

from qwen3_mlx.serve.api_error import refused
from qwen3_mlx.serve.ask import Json
from qwen3_mlx.text.messages import joined_text

_OTHER_CALLS = ("custom_tool_call", "local_shell_call", "shell_call", "apply_patch_call")
"""Calls that the client answers as it answers a function's, by an item ``…_output``."""
_OUTPUTS = tuple(f"{kind}_output" for kind in ("function_call", *_OTHER_CALLS))
_BESIDE = ("id", "type", "status", "call_id", "name")
_TEXT = {"text", "input_text", "output_text"}


def to_messages(
    items: list[Any], find: Callable[[str], Json] | None = None
) -> tuple[list[Json], list[str], tuple[str, ...]]:
    """The messages of `items`, and the places and types of those that have no words for a model.

    The third are the places at which the messages begin. Thought, texts and calls of one answer
    form one message. `find` gives the item that an ``item_reference`` names. Raises `ApiError`.
    """
    known = [_item(item, f"input[{n}]", find) for n, item in enumerate(items)]
    messages: list[Json] = []
    skipped: list[str] = []
    places: list[str] = []
    for n, item in enumerate(known):
        _check_call(item, f"input[{n}]")
        if _is_text_too(item, known[n + 1 :]):
            continue
        if not _add(messages, item):
            skipped.append(f"input[{n}] ({item.get('type')})")
        place = f"input[{n}].output" if item.get("type") in _OUTPUTS else f"input[{n}]"
        places += [place] * (len(messages) - len(places))
    return messages, skipped, tuple(places)


def _item(item: Any, where: str, find: Callable[[str], Json] | None) -> Json:
    if not isinstance(item, dict):
        raise refused(where, item, "expected an object")
    kind = item.get("type")
    if kind is not None and not isinstance(kind, str):
        raise refused(f"{where}.type", kind, "expected a type of item")
    id = item.get("id")
    refers = kind == "item_reference" or (not kind and "role" not in item and "content" not in item)
    if not refers:
        return item
    if not isinstance(id, str) or find is None:
        raise refused(f"{where}.id", id, "expected the id of an item")
    return find(id)


def _check_call(item: Json, where: str) -> None:
    """Raise `ApiError` for a call whose name or arguments are none, by the item's own fields."""
    if item.get("type") != "function_call":
        return
    name, arguments = item.get("name"), item.get("arguments")
    if not isinstance(name, str) or not name:
        raise refused(f"{where}.name", name, "expected the function's name")
    if not isinstance(arguments, dict | str | None):
        raise refused(f"{where}.arguments", arguments, "expected an object, or its JSON")


def _is_text_too(item: Json, behind: list[Json]) -> bool:
    """Whether a call of ours that was cut stands in the message behind it, as text."""
    if item.get("type") != "function_call" or item.get("status") != "incomplete" or not behind:
        return False
    if any(other.get("call_id") == item.get("call_id") for other in behind):
        return False
    text = joined_text(behind[0].get("content")) if behind[0].get("role") == "assistant" else ""
    return f"{item.get('name')}" in text and ("<tool_call>" in text or "<function" in text)


def _add(messages: list[Json], item: Json) -> bool:
    """Add an item to `messages`; False if its type is none that a model could read."""
    kind = item.get("type") or "message"
    if kind == "message" and item.get("role") != "assistant":
        messages.append({"role": item.get("role"), "content": item.get("content")})
    elif kind == "message":
        message = _answer(messages)
        message["content"] = _joined(message["content"], item.get("content"))
    elif kind == "reasoning":
        message, thought = _answer(messages, thinks=True), thought_of(item)
        before = message.get("reasoning_content")
        message["reasoning_content"] = f"{before}\n{thought}" if before and thought else (
            before or thought
        )  # fmt: skip
    elif kind == "function_call":
        _call(messages, item, item.get("name"), item.get("arguments"))
    elif kind in _OTHER_CALLS:
        arguments = {name: value for name, value in item.items() if name not in _BESIDE}
        name = item.get("name") or kind.removesuffix("_call")
        _call(messages, item, name, json.dumps(arguments, ensure_ascii=False))
    elif kind in _OUTPUTS:
        call = item.get("call_id") or item.get("id")
        messages.append({"role": "tool", "content": item.get("output"), "tool_call_id": call})
    else:
        return False
    return True


def _call(messages: list[Json], item: Json, name: Any, arguments: Any) -> None:
    function = {"name": name, "arguments": arguments}
    call = {"id": item.get("call_id"), "type": "function", "function": function}
    _answer(messages).setdefault("tool_calls", []).append(call)


def _answer(messages: list[Json], thinks: bool = False) -> Json:
    """The last message, or a new one if it isn't the assistant's, or a thought begins anew."""
    last = messages[-1] if messages else {}
    begun = last.get("content") or last.get("tool_calls")
    if last.get("role") != "assistant" or (thinks and begun):
        messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def _joined(before: Any, more: Any) -> Any:
    """Two contents as one; texts that meet without white space get a line break between them."""
    if not before or not more:
        return before or more
    parts, added = _parts(before), _parts(more)
    texts = [_text_of(parts[-1]), _text_of(added[0])]
    if None in texts:
        return [*parts, *added]
    (left, right) = map(str, texts)
    apart = "" if left[-1:].isspace() or right[:1].isspace() else "\n"
    return [*parts[:-1], {"type": "output_text", "text": f"{left}{apart}{right}"}, *added[1:]]


def _parts(content: Any) -> list[Any]:
    if isinstance(content, list):
        return content
    return [{"type": "output_text", "text": content}] if isinstance(content, str) else [content]


def _text_of(part: Any) -> str | None:
    text = part.get("text") if isinstance(part, dict) and part.get("type") in _TEXT else None
    return text if isinstance(text, str) else None


def thought_of(item: Json) -> str:
    """The text of a reasoning item: plain, or decoded from what `encrypted` returned."""
    parts = item.get("content") or item.get("summary") or []
    if not isinstance(parts, list):
        raise refused("input", parts, "expected a reasoning item's content to be a list")
    texts = [str(part.get("text") or "") for part in parts if isinstance(part, dict)]
    if any(texts):
        return "\n".join(texts)
    try:
        return base64.b64decode(str(item.get("encrypted_content") or ""), validate=True).decode()
    except (binascii.Error, ValueError):  # encrypted by another server
        return ""


def encrypted(thought: str) -> str:
    """A thought as base64, for ``encrypted_content``: encoded, not encrypted."""
    return base64.b64encode(thought.encode()).decode()

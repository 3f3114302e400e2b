"""A conversation as one document: Markdown for people, one JSON object for programs and `/load`."""

from __future__ import annotations

import json

from qwen3_mlx.chat.journal import EXPORT_FORMAT, EXPORT_VERSION, SavedChat
from qwen3_mlx.text.messages import joined_text


def as_json(chat: SavedChat) -> str:
    """The conversation as one JSON object: format, version, model, options, messages."""
    record = {
        "format": EXPORT_FORMAT,
        "version": EXPORT_VERSION,
        "model": chat.model,
        "options": chat.options,
        "messages": chat.messages,
    }
    return json.dumps(record, ensure_ascii=False, indent=1) + "\n"


def as_markdown(chat: SavedChat) -> str:
    """Markdown: a heading for every message, thoughts in <details>, tool calls as JSON."""
    about = ", ".join(filter(None, (chat.model, chat.id)))
    parts = [f"# {chat.title or chat.id or chat.model}", about]
    for message in chat.messages:
        about = " ".join(str(message[key]) for key in ("name", "tool_call_id") if message.get(key))
        parts.append(f"## {message['role'].capitalize()}{about and f': {about}'}")
        if thought := next((message[key] for key in _THOUGHTS if message.get(key)), ""):
            parts.append(f"<details><summary>Thinking</summary>\n\n{thought}\n\n</details>")
        parts.append(_content(message.get("content")))
        calls = [*(message.get("tool_calls") or []), message.get("function_call")]
        parts += [_fenced(call) for call in calls if call]
    return "\n\n".join(part for part in parts if part) + "\n"


_THOUGHTS = ("reasoning_content", "reasoning", "thinking")


def _content(content: object) -> str:
    """The text of a message; parts that aren't text, such as a tool's result, as JSON."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, list) else [content]
    return "\n\n".join(joined_text([part]) or _fenced(part) for part in parts)


def _fenced(value: object) -> str:
    return f"```json\n{json.dumps(value, ensure_ascii=False)}\n```"

"""Converts the messages of ``/v1/messages``, made of blocks, to messages of the chat template."""

from __future__ import annotations

import re
from typing import Any

from qwen3_mlx.serve.api_error import refused
from qwen3_mlx.serve.ask import Json

_VOLATILE = re.compile(
    r"^x-anthropic-billing-header:[^\n]*\n?|<total_tokens>.*?</total_tokens>\n?", re.M
)
"""Lines of the system prompt that Claude Code changes in every request. They are removed, or no
cached prefix could be reused."""

_TEXT_ONLY = "hint: Qwen3 reads text only: leave it out, or put what it says into words"

_FOREIGN = ("server_tool_use", "mcp_tool_use", "container_upload")
"""Blocks of tools that Anthropic runs; their results end in ``_tool_result``."""


def system(value: Any) -> list[Json]:
    """The system message of a text or of text blocks; [] if it is empty."""
    text = _VOLATILE.sub("", _text(value, "system")).strip("\n")
    return [{"role": "system", "content": text}] if text else []


def _text(value: Any, where: str) -> str:
    """The text of a message's content: a string, or text blocks joined by newlines."""
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        raise refused(where, value, "expected text or a list of blocks")
    return "\n".join(_text_block(block, f"{where}[{n}]") for n, block in enumerate(value))


def _text_block(block: Any, where: str) -> str:
    """The text of a block. Raises `ApiError` if it has none that a model could read."""
    kind = block.get("type") if isinstance(block, dict) else block
    text = block.get("text") if kind == "text" else None
    if isinstance(text, str):
        return text
    if kind == "tool_reference":
        return str(block.get("tool_name", ""))
    if kind == "document":
        return _document(block, where)
    if kind == "search_result":
        return _titled(block, _text(block.get("content"), f"{where}.content"))
    if kind == "text":
        raise refused(f"{where}.text", text, "expected text")
    raise refused(where, kind, f"expected a text block\n{_TEXT_ONLY}")


def _document(block: Json, where: str) -> str:
    source = block.get("source")
    kind = source.get("type") if isinstance(source, dict) else source
    if isinstance(source, dict) and kind == "text" and isinstance(source.get("data"), str):
        return _titled(block, source["data"])
    if isinstance(source, dict) and kind == "content":
        return _titled(block, _text(source.get("content"), f"{where}.source.content"))
    raise refused(f"{where}.source.type", kind, f"expected text or content\n{_TEXT_ONLY}")


def _titled(block: Json, text: str) -> str:
    """`text` behind the block's title and context, each on a line of its own."""
    return "\n".join(
        [str(block[name]) for name in ("title", "context") if block.get(name)] + [text]
    )


def converted(messages: list[Any]) -> tuple[list[Json], list[str], list[str]]:
    """Anthropic's messages in our form, and the places and types of blocks that were skipped.

    The third are the places of the messages. Every tool result becomes a message of role
    ``tool``. Calls of tools that Anthropic runs, and their results, have no words for another
    model. Raises `ApiError`.
    """
    found: list[Json] = []
    skipped: list[str] = []
    places: list[str] = []
    where = ""
    for n, message in enumerate(messages):
        places += [where] * (len(found) - len(places))
        where = f"messages[{n}]"
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ("user", "assistant", "system"):
            raise refused(f"{where}.role", role, "expected user or assistant")
        content = message.get("content")
        if content is None:
            raise refused(f"{where}.content", content, "expected text or a list of blocks")
        if role == "system":
            found += system(content)
            continue
        blocks = _blocks(content, f"{where}.content")
        skipped += [f"{at} ({block['type']})" for at, block in blocks if _is_foreign(block)]
        skipped += [f"{at}.citations" for at, block in blocks if _wants_citations(block)]
        blocks = [(at, block) for at, block in blocks if not _is_foreign(block)]
        found += [_assistant(blocks)] if role == "assistant" else _user(blocks)
    return found, skipped, places + [where] * (len(found) - len(places))


def _is_foreign(block: Json) -> bool:
    kind = block.get("type")
    return isinstance(kind, str) and (kind in _FOREIGN or kind.endswith("_tool_result"))


def _wants_citations(block: Json) -> bool:
    """Whether the answer is to cite this block, or one within its content: none here does."""
    wanted, inner = block.get("citations"), block.get("content")
    if isinstance(wanted, dict) and wanted.get("enabled"):
        return True
    blocks = inner if block.get("type") == "tool_result" and isinstance(inner, list) else []
    return any(_wants_citations(one) for one in blocks if isinstance(one, dict))


def _blocks(content: Any, where: str) -> list[tuple[str, Json]]:
    """The blocks of a message, each with its place."""
    if isinstance(content, str):
        return [(where, {"type": "text", "text": content})]
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise refused(where, content, "expected text or a list of blocks")
    return [(f"{where}[{n}]", block) for n, block in enumerate(content)]


def _assistant(blocks: list[tuple[str, Json]]) -> Json:
    texts, thoughts, calls = [], [], []
    for at, block in blocks:
        match block.get("type"):
            case "thinking":
                thoughts.append(str(block.get("thinking") or ""))
            case "redacted_thinking":
                pass
            case "tool_use":
                calls.append(_call(block, at))
            case _:
                texts.append(_text_block(block, at))
    message: Json = {"role": "assistant", "content": "\n".join(texts)}
    if any(thoughts):
        message["reasoning_content"] = "\n".join(thoughts)
    return message | ({"tool_calls": calls} if calls else {})


def _call(block: Json, where: str) -> Json:
    """A ``tool_use`` block as a call; a text as its input is that of a call that was cut."""
    name, given = block.get("name"), block.get("input") or {}
    if not isinstance(name, str) or not name:
        raise refused(f"{where}.name", name, "expected the tool's name")
    if not isinstance(given, dict | str):
        raise refused(f"{where}.input", given, "expected an object")
    function = {"name": name, "arguments": given}
    return {"id": block.get("id"), "type": "function", "function": function}


def _user(blocks: list[tuple[str, Json]]) -> list[Json]:
    found: list[Json] = []
    for at, block in blocks:
        if block.get("type") == "tool_result":
            text = _text(block.get("content"), f"{at}.content")
            text = f"Error: {text}" if block.get("is_error") else text
            result = {"role": "tool", "content": text, "tool_call_id": block.get("tool_use_id")}
            found.append(result)
        elif found and found[-1]["role"] == "user":
            found[-1]["content"] += f"\n{_text_block(block, at)}"
        else:
            found.append({"role": "user", "content": _text_block(block, at)})
    return found or [{"role": "user", "content": ""}]

"""``/v1/messages``: converts requests of Anthropic's API to the chat template's messages."""

from __future__ import annotations

import re
from typing import Any

from qwen3_mlx.serve import fields, form, thinking
from qwen3_mlx.serve.api_error import refused
from qwen3_mlx.serve.ask import Ask, Json
from qwen3_mlx.serve.fields import Fields

NOT_HONOURED: dict[str, tuple[Any, ...]] = {"mcp_servers": ([],), "container": ()}
_VOLATILE = re.compile(
    r"^x-anthropic-billing-header:[^\n]*\n?|<total_tokens>.*?</total_tokens>\n?", re.M
)
"""Lines of the system prompt that Claude Code changes in every request. They are removed, or no
cached prefix could be reused."""


def read(body: Any, counting: bool = False) -> Ask:
    """Parse a request; with `counting`, ``max_tokens`` is optional. Raises `ApiError`."""
    found = Fields(body)
    found.refuse(NOT_HONOURED)
    limit = found.integer("max_tokens")
    options = fields.sampling(found) | fields.stop_texts(found, "stop_sequences")
    if not counting or limit is not None:
        options["max_tokens"] = fields.required(limit, "max_tokens")
    said = fields.required(found.items("messages"), "messages")
    messages = [*_system(found.raw("system")), *converted(said)]
    tools, others = fields.tools(found.items("tools") or [], _tool)
    called = form.choice(found.raw("tool_choice"))
    one_call = _one_call(found.object("tool_choice"))
    options |= form.read(found) | called
    return Ask(
        model=found.text("model") or "",
        messages=messages,
        options=options,
        thinking=thinking.read(found),
        tools=tools,
        stream=bool(found.flag("stream")),
        continues=bool(messages) and messages[-1]["role"] == "assistant",
        one_call=one_call,
        ignored=(*others, *found.unknown()),
    )


def _one_call(value: Fields | None) -> bool:
    """Whether the turn ends after one tool call."""
    return value is not None and bool(value.flag("disable_parallel_tool_use"))


def _tool(tool: Json) -> Json | None:
    if tool.get("type", "custom") not in ("custom", None):
        return None
    function = {"name": tool.get("name"), "description": tool.get("description") or ""}
    function["parameters"] = tool.get("input_schema") or {"type": "object", "properties": {}}
    if tool.get("strict"):
        function["strict"] = tool["strict"]
    return {"type": "function", "function": function}


def _system(value: Any) -> list[Json]:
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
    if (
        isinstance(block, dict)
        and block.get("type") == "text"
        and isinstance(block.get("text"), str)
    ):
        text: str = block["text"]
        return text
    if isinstance(block, dict) and block.get("type") == "tool_reference":
        return str(block.get("tool_name", ""))
    kind = block.get("type") if isinstance(block, dict) else block
    raise refused(where, kind, "Qwen3 reads text only")


def converted(messages: list[Any]) -> list[Json]:
    """Anthropic's messages in our form: every tool result becomes a message of role ``tool``."""
    found: list[Json] = []
    for n, message in enumerate(messages):
        where = f"messages[{n}]"
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ("user", "assistant", "system"):
            raise refused(f"{where}.role", role, "expected user or assistant")
        content = message.get("content")
        if content is None:
            raise refused(f"{where}.content", content, "expected text or a list of blocks")
        if role == "system":
            found += _system(content)
        elif role == "assistant":
            found.append(_assistant(content, where))
        else:
            found += _user(content, where)
    return found


def _blocks(content: Any, where: str) -> list[Json]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise refused(f"{where}.content", content, "expected text or a list of blocks")
    return content


def _assistant(content: Any, where: str) -> Json:
    texts, thoughts, calls = [], [], []
    for n, block in enumerate(_blocks(content, where)):
        match block.get("type"):
            case "thinking":
                thoughts.append(str(block.get("thinking") or ""))
            case "redacted_thinking":
                pass
            case "tool_use":
                arguments = block.get("input")
                function = {"name": block.get("name"), "arguments": arguments or {}}
                calls.append({"id": block.get("id"), "type": "function", "function": function})
            case _:
                texts.append(_text_block(block, f"{where}.content[{n}]"))
    message: Json = {"role": "assistant", "content": "\n".join(texts)}
    if any(thoughts):
        message["reasoning_content"] = "\n".join(thoughts)
    return message | ({"tool_calls": calls} if calls else {})


def _user(content: Any, where: str) -> list[Json]:
    found: list[Json] = []
    for n, block in enumerate(_blocks(content, where)):
        at = f"{where}.content[{n}]"
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

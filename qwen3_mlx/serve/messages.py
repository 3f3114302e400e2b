"""``/v1/messages``: converts requests of Anthropic's API to the chat template's messages."""

from __future__ import annotations

from typing import Any

from qwen3_mlx.serve import fields, form, message_blocks, thinking
from qwen3_mlx.serve.api_error import refused
from qwen3_mlx.serve.ask import Ask, Json
from qwen3_mlx.serve.fields import Fields

NOT_HONOURED: dict[str, tuple[Any, ...]] = {
    "mcp_servers": ([],),
    "container": (),
    "compaction": (),
}


def read(body: Any, counting: bool = False) -> Ask:
    """Parse a request; with `counting`, ``max_tokens`` is optional. Raises `ApiError`."""
    found = Fields(body)
    found.refuse(NOT_HONOURED)
    _no_thread(found.raw("thread"))
    given = found.integer("max_tokens")
    options = fields.sampling(found) | fields.stop_texts(found, "stop_sequences")
    limit = given if counting else fields.required(given, "max_tokens")
    options |= {} if limit in (None, -1) else {"max_tokens": limit}
    said = fields.required(found.items("messages"), "messages", body)
    talk, skipped, places = message_blocks.converted(said)
    if talk and talk[-1] == {"role": "assistant", "content": ""}:
        talk.pop()  # Anthropic lets the last message be empty: there is nothing to go on with
    system = message_blocks.system(found.raw("system"))
    messages = [*system, *talk]
    tools, others = fields.tools(found.items("tools") or [], _tool)
    called = form.choice(found.raw("tool_choice"))
    one_call = _one_call(found.object("tool_choice"))
    form_option, form_field = form.read(found)
    options |= form_option | called
    return Ask(
        model=found.text("model") or "",
        messages=messages,
        options=options,
        thinking=thinking.read(found),
        tools=tools,
        stream=bool(found.flag("stream")),
        continues=bool(messages) and messages[-1]["role"] == "assistant",
        one_call=one_call,
        ignored=(*others, *skipped, *found.unknown()),
        places=("system",) * len(system) + tuple(places),
        form_field=form_field,
    )


def _no_thread(value: Any) -> None:
    """Refuse a thread, whose later requests hold only the new messages. Raises `ApiError`.

    With this code Anthropic's tool runner sends the whole conversation instead.
    """
    if value is not None:
        error = refused("thread", value, "no threads are kept here: send the whole conversation")
        error.code = "thread_unsupported_request"
        raise error


def _one_call(value: Fields | None) -> bool:
    """Whether the turn ends after one tool call."""
    return value is not None and bool(value.flag("disable_parallel_tool_use"))


def _tool(tool: Json) -> Json | None:
    if tool.get("type", "custom") not in ("custom", "function", None):
        return None
    if isinstance(tool.get("function"), dict):  # OpenAI's: dropped, an agent would have no tools
        return tool
    function = {"name": tool.get("name"), "description": tool.get("description") or ""}
    schema = tool.get("input_schema") or tool.get("parameters")
    function["parameters"] = schema or {"type": "object", "properties": {}}
    if tool.get("strict"):
        function["strict"] = tool["strict"]
    return {"type": "function", "function": function}

"""``/v1/responses``: converts requests of OpenAI's newer API to the chat template's messages."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

from qwen3_mlx.serve import fields, form, input_items, thinking
from qwen3_mlx.serve.api_error import ApiError, refused
from qwen3_mlx.serve.ask import Ask, Json
from qwen3_mlx.serve.fields import Fields
from qwen3_mlx.serve.response_items import to_messages
from qwen3_mlx.serve.sse import encoded

NOT_HONOURED: dict[str, tuple[Any, ...]] = {
    "background": (False,),
    "conversation": (),
    "prompt": (),
    "top_logprobs": (0,),
    "moderation": (),
}


_KEPT = (
    "the last 256 are, until the server ends, unless store is false; send the whole conversation"
)
_LOGPROBS = "message.output_text.logprobs"


def check_whole(query: Mapping[str, str]) -> None:
    """Refuse to stream a stored response: its events are not stored. Raises `ApiError`."""
    stream = query.get("stream", "")
    if stream.lower() not in ("", "false", "0"):  # Python's requests write False
        raise refused("stream", stream, "a response is kept whole, without its events")


class _One(NamedTuple):
    """A stored response; `size` is in bytes of JSON."""

    messages: list[Json]
    response: Json
    said: list[Json]
    size: int


class Kept:
    """The last responses by id, in memory, for ``previous_response_id``: by default 256, 64 MB."""

    def __init__(self, most: int = 256, most_bytes: int = 64_000_000) -> None:
        self._most, self._most_bytes, self._bytes = most, most_bytes, 0
        self._kept: OrderedDict[str, _One] = OrderedDict()

    def put(self, id: str, messages: list[Json], response: Json, said: list[Json]) -> None:
        """Store a response, the conversation up to its end, and the items that its request `said`.

        Drops the oldest responses over the limits.
        """
        size = len(encoded(messages)) + len(encoded(response)) + len(encoded(said))
        self._kept[id] = _One(messages, response, said, size)
        self._bytes += size
        while len(self._kept) > self._most or (self._bytes > self._most_bytes and self._kept):
            self._bytes -= self._kept.popitem(last=False)[1].size

    def messages(self, id: str) -> list[Json]:
        """The messages up to the end of a response. Raises `ApiError` (404)."""
        return self._get(id, "previous_response_id").messages

    def response(self, id: str) -> Json:
        """The stored response object. Raises `ApiError` (404)."""
        return self._get(id).response

    def said(self, id: str) -> list[Json]:
        """The input items of a response's own request. Raises `ApiError` (404)."""
        return self._get(id).said

    def item(self, id: str) -> Json:
        """An output item of any stored response. Raises `ApiError` (404)."""
        for response_id, one in reversed(self._kept.items()):
            for item in one.response["output"]:
                if item["id"] == id:
                    self._kept.move_to_end(response_id)
                    return item
        message = f"no item {id[:80]!r} is kept here: send the item itself"
        raise ApiError(404, message, param="input", code="not_found")

    def drop(self, id: str) -> None:
        """Delete a response. Raises `ApiError` (404)."""
        self._bytes -= self._get(id).size
        del self._kept[id]

    def _get(self, id: str, param: str | None = None) -> _One:
        if id not in self._kept:
            message = f"no response {id[:80]!r} is kept here\nhint: {_KEPT}"
            raise ApiError(404, message, param=param, code="not_found")
        self._kept.move_to_end(id)
        return self._kept[id]


def read(body: Any, kept: Kept) -> Ask:
    """Parse a request; `kept` holds its previous response. Raises `ApiError`."""
    found = Fields(body)
    found.refuse(NOT_HONOURED)
    limit = found.limit("max_output_tokens")
    called = form.choice(found.raw("tool_choice"))
    options = fields.sampling(found) | ({} if limit is None else {"max_tokens": limit})
    form_option, form_field = form.read(found)
    options |= form_option | called
    previous = found.text("previous_response_id")
    before = kept.messages(previous) if previous else []
    given = fields.required(found.raw("input"), "input", body)
    said, skipped, places = _input(given, kept)
    instructions = found.text("instructions")
    system = [{"role": "system", "content": instructions}] if instructions else []
    tools, others = fields.tools(found.items("tools") or [], _tool)
    include = found.items("include") or []
    if _LOGPROBS in include:
        raise refused("include", _LOGPROBS, "chat completions have them, responses don't")
    more: Json = {"store": found.flag("store"), "previous": previous, "instructions": instructions}
    more |= {"encrypted": "reasoning.encrypted_content" in include, "before": [*before, *said]}
    more["input"] = input_items.listed(given, kept.item)
    more |= {"text": found.raw("text") or {}, "choice": found.raw("tool_choice") or "auto"}
    more |= {"metadata": found.raw("metadata") or {}, "tools": found.raw("tools") or []}
    return Ask(
        model=found.text("model") or "",
        messages=[*system, *before, *said],
        options=options,
        thinking=thinking.read(found),
        tools=tools,
        stream=bool(found.flag("stream")),
        one_call=found.flag("parallel_tool_calls") is False,
        ignored=(*others, *skipped, *found.unknown()),
        more=more,
        named={"max_tokens": "max_output_tokens", "messages": "input"},
        places=("instructions",) * len(system) + ("previous_response_id",) * len(before) + places,
        form_field=form_field,
    )


def _tool(tool: Json) -> Json | None:
    if (tool.get("type") or "function") != "function":
        return None
    if isinstance(tool.get("function"), dict):  # chat completions' form
        return tool
    names = ("name", "description", "parameters")
    function = {name: tool[name] for name in names if tool.get(name) is not None}
    if "input_schema" in tool:  # Anthropic's
        function.setdefault("parameters", tool["input_schema"])
    if tool.get("strict"):
        function["strict"] = tool["strict"]
    return {"type": "function", "function": function}


def _input(value: Any, kept: Kept) -> tuple[list[Json], list[str], tuple[str, ...]]:
    """As `to_messages`, also for an input that is a text."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}], [], ("input",)
    if not isinstance(value, list) or not value:
        raise refused("input", value, "expected text or a list of items")
    return to_messages(value, kept.item)

"""``/v1/chat/completions``: OpenAI's chat API, with thinking in ``reasoning_content``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from qwen3_mlx.events import (
    Answer,
    Done,
    Event,
    Reply,
    Thinking,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
)
from qwen3_mlx.serve import fields, form, thinking
from qwen3_mlx.serve.api_error import ApiError, refused
from qwen3_mlx.serve.ask import Ask, Json
from qwen3_mlx.serve.fields import Fields
from qwen3_mlx.serve.sse import Framed, comment, data, finish
from qwen3_mlx.serve.usage import Usage

NOT_HONOURED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "audio": (),
    "modalities": (["text"], []),
    "prediction": (),
    "web_search_options": (),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "guided_grammar": ("",),
    "grammar": ("",),
    "suffix": ("",),
    "echo": (False,),
    "use_beam_search": (False,),
    "skip_special_tokens": (True,),
}
"""Fields of features that are not implemented, and the values of each that are harmless."""


def read(body: Any) -> Ask:
    """Parse a request. Raises `ApiError`."""
    found = Fields(body)
    found.refuse(NOT_HONOURED)
    options = fields.sampling(found) | fields.stop_texts(found)
    limits = {name: found.limit(name) for name in ("max_completion_tokens", "max_tokens")}
    name = next((name for name, limit in limits.items() if limit is not None), "max_tokens")
    options |= {} if limits[name] is None else {"max_tokens": limits[name]}
    options |= _logprobs(found)
    tools, used = fields.tools(found.items("tools") or [], _tool)
    called = form.choice(found.raw("tool_choice"))
    form_option, form_field = form.read(found)
    options |= form_option | called
    stream = found.object("stream_options")
    continues = bool(found.flag("continue_final_message"))
    if found.flag("add_generation_prompt") is False and not continues:
        raise refused("add_generation_prompt", False, "expected continue_final_message beside it")
    return Ask(
        model=found.text("model") or "",
        messages=fields.required(found.items("messages"), "messages", body),
        options=options,
        thinking=thinking.read(found),
        tools=tools,
        stream=bool(found.flag("stream")),
        usage_in_stream=bool(stream and stream.flag("include_usage")),
        continues=continues,
        one_call=found.flag("parallel_tool_calls") is False,
        ignored=(*used, *found.unknown()),
        named={"max_tokens": name, "logprobs": "top_logprobs"},
        form_field=form_field,
    )


def _logprobs(found: Fields) -> Json:
    wanted, top = found.flag("logprobs"), found.integer("top_logprobs")
    if top and not wanted:
        raise refused("top_logprobs", top, "logprobs must be true for it")
    return {"logprobs": top or 0} if wanted else {}


def _tool(tool: Json) -> Json | None:
    if (tool.get("type") or "function") != "function":
        return None
    if "input_schema" not in tool or "function" in tool:
        return tool
    function = {"name": tool.get("name"), "description": tool.get("description") or ""}
    return {"type": "function", "function": function | {"parameters": tool["input_schema"]}}


class Writer:
    """Writes ``chat.completion.chunk`` objects, or one whole ``chat.completion``."""

    def __init__(self, id: str, model: str, ask: Ask) -> None:
        self.id, self.model, self.ask = id, model, ask
        self.created = int(time.time())
        self._logprobs: list[Json] = []
        self._calls = 0

    @cached_property
    def _answer(self) -> Framed:
        """A content chunk encoded in advance: most chunks differ only in their text."""
        return Framed(self._value({"content": Framed.HERE}))

    def begin(self, usage: Usage) -> list[bytes]:
        """The first chunk: the assistant's role and empty content."""
        return [self._chunk({"role": "assistant", "content": ""})]

    def take(self, event: Event) -> list[bytes]:
        """A chunk for thinking, text or a piece of a tool call; logprobs wait for their text."""
        match event:
            case Thinking(text):
                return [self._chunk({"reasoning_content": text, "reasoning": text})]
            case Answer(text):
                if self.ask.options.get("logprobs") is None:
                    return [self._answer.data(text)]
                return [self._chunk({"content": text}, logprobs=self._said())]
            case ToolCallDelta():
                return [self._chunk({"tool_calls": [self._grown(event)]})]
            case ToolCall():
                self._calls += 1
            case TokenLogprob():
                self._logprobs += answered([event])
        return []

    def _grown(self, delta: ToolCallDelta) -> Json:
        if not delta.name:
            return {"index": delta.index, "function": {"arguments": delta.arguments}}
        function = {"name": delta.name, "arguments": delta.arguments}
        return {"index": delta.index, "id": delta.id, "type": "function", "function": function}

    def _said(self) -> Json | None:
        said, self._logprobs = self._logprobs, []
        return (
            {"content": said, "refusal": None}
            if self.ask.options.get("logprobs") is not None
            else None
        )

    def end(self, done: Done, usage: Usage) -> list[bytes]:
        """The chunk with the finish reason, the usage if it was requested, and ``[DONE]``."""
        reason = finish(done.finish_reason, bool(self._calls), "length", "stop", "tool_calls")
        late = self._said() if self._logprobs else None  # of the answer's last text
        cut = done.stats.thinking_cut
        last = self._chunk({}, reason, stop_reason=done.stopped_by, cut=cut, logprobs=late)
        counted = {**self._head("chat.completion.chunk"), "choices": [], "usage": counts(usage)}
        return [last, *([data(counted)] if self.ask.usage_in_stream else []), data("[DONE]")]

    def fail(self, error: ApiError) -> list[bytes]:
        """The error in OpenAI's format, as the last event."""
        return [data(error.body("openai"))]

    def alive(self, done: int, total: int) -> bytes:
        """A comment with the prefill's progress, in tokens."""
        return comment(f"{done}/{total}")

    def whole(self, reply: Reply, usage: Usage) -> Json:
        """The ``chat.completion`` object."""
        calls = [call_item(call) for call in reply.tool_calls]
        message: Json = {"role": "assistant", "content": reply.answer or None, "refusal": None}
        if not calls:
            message["content"] = reply.answer
        if reply.thinking:
            message |= {"reasoning_content": reply.thinking, "reasoning": reply.thinking}
        if calls:
            message["tool_calls"] = calls
        reason = finish(reply.finish_reason, bool(calls), "length", "stop", "tool_calls")
        said = answered(reply.logprobs)
        shown = (
            {"content": said, "refusal": None}
            if self.ask.options.get("logprobs") is not None
            else None
        )
        one = {"index": 0, "message": message, "logprobs": shown, "finish_reason": reason}
        one["stop_reason"] = reply.stopped_by
        if reply.stats.thinking_cut:
            one["thinking_cut"] = reply.stats.thinking_cut
        return {**self._head("chat.completion"), "choices": [one], "usage": counts(usage)}

    def _head(self, kind: str) -> Json:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, delta: Json, reason: str | None = None, **more: Any) -> bytes:
        return data(self._value(delta, reason, **more))

    def _value(
        self,
        delta: Json,
        reason: str | None = None,
        *,
        logprobs: Json | None = None,
        stop_reason: str | None = None,
        cut: str = "",
    ) -> Json:
        one: Json = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        one |= {"stop_reason": stop_reason} if stop_reason is not None else {}
        one |= {"thinking_cut": cut} if cut else {}
        return {**self._head("chat.completion.chunk"), "choices": [one]}


def call_item(call: ToolCall) -> Json:
    """A tool call in a message's ``tool_calls``: its arguments are JSON text."""
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }


def counts(usage: Usage) -> Json:
    """The ``usage`` object of chat completions: tokens; the prompt's include the cached ones."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.output,
        "total_tokens": usage.prompt + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.thinking},
    }


def answered(found: Iterable[TokenLogprob]) -> list[Json]:
    """The log probabilities of the answer's tokens alone, as a message's ``logprobs`` has them."""
    return [_logprob(one) for one in found if one.part == "answer" and one.shown]


def _logprob(one: TokenLogprob) -> Json:
    """A token's log probability, and those of the likeliest tokens at its position."""
    text = one.shown.decode("utf-8", "replace")
    found = {"token": text, "logprob": one.logprob, "bytes": list(one.shown)}
    top = [{"token": t.text, "logprob": t.logprob, "bytes": list(t.bytes)} for t in one.top]
    return found | {"top_logprobs": top}

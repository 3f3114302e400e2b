"""``/v1/completions``: continues a text as it is, without a chat template."""

from __future__ import annotations

import time
from typing import Any

from qwen3_mlx.events import Answer, Done, Event, Reply, Thinking
from qwen3_mlx.serve import fields, form
from qwen3_mlx.serve.api_error import ApiError, refused
from qwen3_mlx.serve.ask import Ask, Json
from qwen3_mlx.serve.chat_completions import NOT_HONOURED, counts
from qwen3_mlx.serve.fields import Fields
from qwen3_mlx.serve.sse import comment, data
from qwen3_mlx.serve.usage import Usage

ALL = 2**31
"""A limit above every context: what there is room for."""


def read(body: Any) -> Ask:
    """Parse a request; ``max_tokens`` is 16 by default. Raises `ApiError`."""
    found = Fields(body)
    found.refuse(NOT_HONOURED | form.NOT_HONOURED | {"logprobs": (0,), "prompt_logprobs": ()})
    options = fields.sampling(found) | fields.stop_texts(found)
    limit = found.integer("max_tokens")
    options["max_tokens"] = 16 if limit is None else ALL if limit == -1 else limit
    stream = found.object("stream_options")
    return Ask(
        model=found.text("model") or "",
        messages=[],
        options=options,
        stream=bool(found.flag("stream")),
        usage_in_stream=bool(stream and stream.flag("include_usage")),
        prompt=_prompt(fields.required(found.raw("prompt"), "prompt")),
        ignored=tuple(found.unknown()),
    )


def _prompt(value: Any) -> str | list[int]:
    one = value[0] if isinstance(value, list) and len(value) == 1 else value
    if isinstance(one, str) and one:
        return one
    if isinstance(one, int) and not isinstance(one, bool):
        return [one]
    if isinstance(one, list) and one and all(type(token) is int for token in one):
        return one
    raise refused("prompt", value, "expected one text that isn't empty, or one list of ids")


class Writer:
    """Writes ``text_completion`` objects, streamed or whole."""

    def __init__(self, id: str, model: str, ask: Ask) -> None:
        self.id, self.model, self.ask = id, model, ask
        self.created = int(time.time())

    def begin(self, usage: Usage) -> list[bytes]:
        """Nothing: the stream begins with its first text."""
        return []

    def take(self, event: Event) -> list[bytes]:
        """The text of an answer or thought; other events add nothing."""
        return [data(self._piece(event.text))] if isinstance(event, Answer | Thinking) else []

    def end(self, done: Done, usage: Usage) -> list[bytes]:
        """The object with the finish reason, the usage if it was requested, and ``[DONE]``."""
        last = [data(self._piece("", _reason(done.finish_reason)))]
        if self.ask.usage_in_stream:
            last.append(data({**self._head(), "choices": [], "usage": counts(usage)}))
        return [*last, data("[DONE]")]

    def fail(self, error: ApiError) -> list[bytes]:
        """The error in OpenAI's format, as the last event."""
        return [data(error.body("openai"))]

    def alive(self, done: int, total: int) -> bytes:
        """A comment with the prefill's progress, in tokens."""
        return comment(f"{done}/{total}")

    def whole(self, reply: Reply, usage: Usage) -> Json:
        """The ``text_completion`` object with all text, thoughts first, and the usage."""
        text = reply.thinking + reply.answer
        return self._piece(text, _reason(reply.finish_reason)) | {"usage": counts(usage)}

    def _head(self) -> Json:
        kind, created = "text_completion", self.created
        return {"id": self.id, "object": kind, "created": created, "model": self.model}

    def _piece(self, text: str, reason: str | None = None) -> Json:
        one = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
        return {**self._head(), "choices": [one]}


def _reason(reason: str) -> str:
    return "stop" if reason == "stop" else "length"

"""``/v1/completions``: continues a text as it is, without a chat template."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from qwen3_mlx.events import Answer, Done, Event, Reply, Thinking, TokenLogprob
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
    found.refuse(NOT_HONOURED | form.NOT_HONOURED | {"prompt_logprobs": ()})
    options = fields.sampling(found) | fields.stop_texts(found)
    if (likeliest := found.integer("logprobs")) is not None:
        options["logprobs"] = likeliest
    limit = found.integer("max_tokens")
    options["max_tokens"] = 16 if limit is None else ALL if limit == -1 else limit
    stream = found.object("stream_options")
    return Ask(
        model=found.text("model") or "",
        messages=[],
        options=options,
        stream=bool(found.flag("stream")),
        usage_in_stream=bool(stream and stream.flag("include_usage")),
        prompt=_prompt(fields.required(found.raw("prompt"), "prompt", body)),
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
    several = isinstance(value, list) and len(value) > 1 and not isinstance(value[0], int)
    more = "\nhint: ask once for each of them" if several else ""
    raise refused("prompt", value, f"expected one text that isn't empty, or one list of ids{more}")


class Writer:
    """Writes ``text_completion`` objects, streamed or whole."""

    def __init__(self, id: str, model: str, ask: Ask) -> None:
        self.id, self.model, self.ask = id, model, ask
        self.created = int(time.time())
        self._logprobs: list[TokenLogprob] = []
        self._shown = b""

    def begin(self, usage: Usage) -> list[bytes]:
        """Nothing: the stream begins with its first text."""
        return []

    def take(self, event: Event) -> list[bytes]:
        """The text of an answer or thought, with the log probabilities that precede it."""
        if isinstance(event, TokenLogprob):
            self._logprobs.append(event)
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
        self._logprobs += reply.logprobs
        return self._piece(text, _reason(reply.finish_reason)) | {"usage": counts(usage)}

    def _head(self) -> Json:
        kind, created = "text_completion", self.created
        return {"id": self.id, "object": kind, "created": created, "model": self.model}

    def _piece(self, text: str, reason: str | None = None) -> Json:
        found, self._logprobs = self._logprobs, []
        shown = None
        if self.ask.options.get("logprobs") is not None:
            shown = completion_logprobs(found, self._shown)
        self._shown += b"".join(one.shown for one in found)
        one = {"index": 0, "text": text, "logprobs": shown, "finish_reason": reason}
        return {**self._head(), "choices": [one]}


def completion_logprobs(found: Iterable[TokenLogprob], before: bytes = b"") -> Json:
    """The ``logprobs`` of completions: a list for each kind of fact, of the tokens shown.

    before: what the tokens before them have shown, which can lag behind the text that was sent.
    ``top_logprobs`` has the token drawn too.
    """
    shown = [one for one in found if one.shown]
    offsets = []
    for one in shown:
        offsets.append(len(before.decode("utf-8", "ignore")))
        before += one.shown
    return {
        "tokens": [_spelled(one.shown) for one in shown],
        "token_logprobs": [one.logprob for one in shown],
        "top_logprobs": [
            {_spelled(each.bytes): each.logprob for each in (one, *one.top)} for one in shown
        ],
        "text_offset": offsets,
    }


def _spelled(token: bytes) -> str:
    """A token's text; as OpenAI has it, its bytes where they are no whole characters.

    Two such tokens would share one name else.
    """
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def _reason(reason: str) -> str:
    return "stop" if reason == "stop" else "length"

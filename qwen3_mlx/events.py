"""The events of a turn: thinking, answer, tool calls, log probabilities and the end."""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length", "interrupted"]
"""``stop``: the model or a stop sequence ended the turn; ``length``: max_tokens or the context ran
out; ``interrupted``: the user, the server or an error did."""

ThinkingCut = Literal["", "budget", "user", "sure"]
"""What ended the thinking: the model itself (empty), the budget, the user's "answer now", or a
probe that found the answer certain (``sure``)."""


Part = Literal["", "thought", "answer", "call"]
"""The part of a turn that a token's text went into; empty if it is shown nowhere."""


@dataclass(frozen=True, slots=True)
class Thinking:
    """A piece of the thinking text."""

    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A piece of the answer text."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function call that the model requests."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    id: str = field(default="", compare=False)
    """Pairs the call with its result; unique per call, and therefore left out of comparisons."""

    def as_message(self) -> dict[str, Any]:
        """The call as an entry of ``tool_calls`` in an assistant message."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log probability of one generated token, before any sampling option changes the logits.

    With the option `logprobs`, the event precedes the text that the token completes. Tokens that
    the thinking budget inserts are not sampled, and have no event.
    """

    token: int
    bytes: bytes
    """The UTF-8 bytes that the token adds to the text; they may be a part of a character."""
    logprob: float
    top: tuple[TokenLogprob, ...] = ()
    """The likeliest tokens at this position, most likely first, as many as `logprobs` asks for."""
    part: Part = ""
    """Where the token's text went: markers, the end and a stop text are in no part."""
    shown: builtins.bytes = b""
    """The UTF-8 bytes that it added to the thought or the answer: `bytes`, without what a stop text
    or the end of the text cut off. Those of all answer tokens joined are the answer."""

    @property
    def text(self) -> str:
        """`bytes` decoded as UTF-8; an incomplete character becomes U+FFFD."""
        return self.bytes.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call while it is generated: its name first, then its arguments' JSON text.

    Sent only on request. The arguments joined parse to those of the `ToolCall` that follows; if
    none follows, the text was not a valid call, and they are not whole JSON.
    """

    index: int
    """The number of the call within the turn, from 0; one that turned out to be none counts."""
    name: str = ""
    arguments: str = ""
    id: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Speculation:
    """Counts of speculative decoding in one turn; drafts change the speed, never the text."""

    rounds: int = 0
    """Forward passes that verified drafted tokens."""
    drafted: int = 0
    accepted: int = 0
    """Drafted tokens that the model confirmed: they needed no forward pass of their own."""
    gain: float = 0.0
    """Tokens per second with drafts, divided by those of plain steps; 0 if not measured."""
    off: str = ""
    """Why drafting was switched off by the end of the turn; empty if it was not."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts and timings of one turn; counts are tokens, times seconds, rates tokens per second."""

    prompt_tokens: int = 0
    """All tokens of the rendered prompt, the cached ones included."""
    cached_tokens: int = 0
    """Prompt tokens whose keys and values were in the prompt cache."""
    thinking_tokens: int = 0
    """Tokens generated before ``</think>``: ``<think>`` counts, the stop text does not."""
    answer_tokens: int = 0
    """Tokens generated after ``</think>``, without the end-of-turn token."""
    thinking_cut: ThinkingCut = ""
    ttft_s: float = 0.0
    prefill_tps: float = 0.0
    decode_tps: float = 0.0
    peak_memory_bytes: int = 0
    kv_bytes: int = 0
    """Bytes of the KV cache at the end of the turn."""
    kv_kind: str = ""
    """The format of the KV cache in words, such as "as computed" or "8 bits"."""
    speculation: Speculation | None = None
    """Counts of speculative decoding; None for a turn without drafts."""
    probes: int = 0
    """Probes of an automatic budget: each asks what the answer would be now."""
    probe_tokens: int = 0
    """Tokens that the probes processed; no other count includes them."""
    probe_seconds: float = 0.0

    @property
    def ttft(self) -> float:
        """Time to first token: seconds from the request to the first token; same as `ttft_s`."""
        return self.ttft_s


@dataclass(frozen=True, slots=True)
class Done:
    """The last event of a turn."""

    finish_reason: FinishReason
    stats: Stats
    stopped_by: str | None = None
    """The stop sequence that ended the turn; None if anything else did."""


Event = Thinking | Answer | ToolCall | ToolCallDelta | TokenLogprob | Done


@dataclass(frozen=True, slots=True)
class Reply:
    """The result of a whole turn: its events, joined."""

    thinking: str
    answer: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    stats: Stats
    logprobs: tuple[TokenLogprob, ...] = ()
    stopped_by: str | None = None
    alternatives: tuple[Reply, ...] = ()
    """The other n - 1 replies of ``generate(n=…)``."""

    @classmethod
    def from_events(cls, events: Iterable[Event]) -> Reply:
        """Join the events of one turn. Raises `ValueError` if they don't end in `Done`."""
        thinking: list[str] = []
        answer: list[str] = []
        calls: list[ToolCall] = []
        logprobs: list[TokenLogprob] = []
        for event in events:
            match event:
                case Thinking(text):
                    thinking.append(text)
                case Answer(text):
                    answer.append(text)
                case ToolCall():
                    calls.append(event)
                case TokenLogprob():
                    logprobs.append(event)
                case Done(reason, stats, stop):
                    joined = "".join(thinking), "".join(answer)
                    return cls(*joined, tuple(calls), reason, stats, tuple(logprobs), stop)
        raise ValueError("the events of a turn end in Done")

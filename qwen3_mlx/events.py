"""What a model says, as events: thought, answer, tool call, and how it ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length", "interrupted"]
"""``stop``: the model ended its turn; ``length``: max_tokens or the context ran out."""

ThinkingCut = Literal["", "budget", "user", "sure"]
"""Who ended the thinking: the model itself (empty), the budget, the user's "answer now", or a probe
that found the model sure of its answer."""


@dataclass(frozen=True, slots=True)
class Thinking:
    """A piece of the model's thought."""

    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function the model asks to have called."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    id: str = field(default="", compare=False)
    """Pairs the call with its result; new for each call, so two calls may be equal without it."""

    def as_message(self) -> dict[str, Any]:
        """The call as an assistant's message holds it among its ``tool_calls``."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely the network held one generated token, before any option changed that.

    Comes right before the text that the token completes, if `logprobs` was asked for. Ids that
    the budget put in were not drawn, and have none.
    """

    token: int
    bytes: bytes
    """What it adds to the text: a part of a character, at times."""
    logprob: float
    top: tuple[TokenLogprob, ...] = ()
    """The likeliest tokens in its place, as many as were asked for, the likeliest first."""

    @property
    def text(self) -> str:
        """`bytes` as text; a part of a character is U+FFFD."""
        return self.bytes.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A tool call as it grows, for whoever asks: first its name, then its arguments' JSON text.

    The `ToolCall` that follows is what counts; if none follows, it was no call after all.
    """

    index: int
    """Which of the turn's calls, from 0."""
    name: str = ""
    arguments: str = ""
    id: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Speculation:
    """What drafts gave in a turn; they change its speed alone."""

    rounds: int = 0
    """Steps that checked drafts."""
    drafted: int = 0
    accepted: int = 0
    """Drafts that were right: tokens that needed no step of their own."""
    gain: float = 0.0
    """Tokens a second while drafts were tried, over those of plain steps; 0 if not measured."""
    off: str = ""
    """Why they were left off at the end, if they were."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts and timings of one turn; counts are tokens, times seconds, rates tokens per second."""

    prompt_tokens: int = 0
    """All tokens of the rendered prompt."""
    cached_tokens: int = 0
    """Those of them that the cache held already."""
    thinking_tokens: int = 0
    """Generated before ``</think>``: an opening marker counts, the stop text does not."""
    answer_tokens: int = 0
    """Generated after it, the end-of-turn token not counted."""
    thinking_cut: ThinkingCut = ""
    ttft_s: float = 0.0
    prefill_tps: float = 0.0
    decode_tps: float = 0.0
    peak_memory_bytes: int = 0
    kv_bytes: int = 0
    """What the keys and values take at the end of the turn."""
    kv_kind: str = ""
    """How they are kept: as computed, in 8 bits, …"""
    speculation: Speculation | None = None
    """What drafts gave, if there were to be any."""
    probes: int = 0
    """Times that an automatic budget asked what the answer would be."""
    probe_tokens: int = 0
    """Tokens that this took; they are in no other count."""
    probe_seconds: float = 0.0

    @property
    def ttft(self) -> float:
        """`ttft_s` by its usual name: seconds from the request to the first token."""
        return self.ttft_s


@dataclass(frozen=True, slots=True)
class Done:
    """The turn is over."""

    finish_reason: FinishReason
    stats: Stats
    stopped_by: str | None = None
    """The stop sequence that ended the turn; None if the model did, or `finish_reason` says."""


Event = Thinking | Answer | ToolCall | ToolCallDelta | TokenLogprob | Done


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole turn: its events, joined."""

    thinking: str
    answer: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    stats: Stats
    logprobs: tuple[TokenLogprob, ...] = ()
    stopped_by: str | None = None
    alternatives: tuple[Reply, ...] = ()
    """The other answers, where several were asked for."""

    @classmethod
    def from_events(cls, events: Iterable[Event]) -> Reply:
        """Join the events of one turn, which must end in `Done`."""
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

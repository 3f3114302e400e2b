"""One turn of token ids: decoding until the end, with the thinking held to its budget.

The documented procedure (Qwen's quickstart, "Thinking Budget"): generate at most `budget`
tokens; if the turn ended, done; if ``</think>`` came, go on; else append the stop text and go
on with what is left of max_tokens. Here it is one loop: counting is a comparison of ints on the
host, and the stop text one forward pass on the same cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.events import FinishReason, ThinkingCut
from qwen3_mlx.options import ThinkingBudget

Interrupt = Literal["answer", "stop"]
"""``answer``: stop thinking and answer now; ``stop``: end the turn."""


class Control:
    """The line by which another thread reaches a running turn; read once a token."""

    def __init__(self) -> None:
        self.wish: Interrupt | None = None

    def interrupt(self, kind: Interrupt) -> None:
        """Ask for an end of the thinking, or of the turn; a stop is never taken back."""
        if kind not in ("answer", "stop"):
            raise ValueError(f"interrupt takes 'answer' or 'stop', got {kind!r}")
        if self.wish != "stop":
            self.wish = kind

    @property
    def stopped(self) -> bool:
        """Whether the turn is to end."""
        return self.wish == "stop"


@dataclass(frozen=True, slots=True)
class Markers:
    """The token ids that structure a turn; None where a vocabulary lacks one.

    `tool` opens a tool call, where the turn has tools to call.
    """

    open: int | None
    close: int | None
    tool: int | None
    eos: frozenset[int]


@dataclass(slots=True)
class TurnCounts:
    """What is counted while a turn is generated; read it when the loop is over."""

    thinking: bool
    """Whether the turn may think: the budget holds until ``</think>`` comes."""
    inside: bool = False
    """Whether the model is inside a think block now."""
    thinking_tokens: int = 0
    answer_tokens: int = 0
    cut: ThinkingCut = ""
    finish_reason: FinishReason = "length"
    _armed: bool = field(init=False)
    _just_cut: bool = False

    def __post_init__(self) -> None:
        self._armed = self.thinking

    def count(self, token: int, markers: Markers) -> None:
        """Take note of one generated token."""
        if token in markers.eos:
            self.finish_reason = "stop"
        elif token == markers.close:
            self._armed = self.inside = False
        elif token == markers.open:
            # A model that reopens its thought right behind the stop text is cut again.
            self._armed = self._armed or self._just_cut
            self.inside = True
            self.thinking_tokens += 1
        elif token == markers.tool:
            # A call ends an open thought: a stop text inside its JSON would ruin it.
            self._armed = self.inside = False
            self.answer_tokens += 1
        elif self._armed or self.inside:
            self.thinking_tokens += 1
        else:
            self.answer_tokens += 1
        self._just_cut = False

    def cut_by(self, budget: ThinkingBudget, control: Control) -> ThinkingCut:
        """Who wants the thinking cut now, if anyone."""
        if self._armed and budget.limit is not None and self.thinking_tokens >= budget.limit:
            return "budget"
        if control.wish == "answer":
            control.wish = None
            return "user" if self.inside else ""
        return ""

    def close(self, cut: ThinkingCut) -> None:
        """The stop text was put in."""
        self.cut, self._armed, self.inside = self.cut or cut, False, False
        self._just_cut = True

    def finalize_counts(self) -> None:
        """At the end: a turn that never opened a block, nor was cut, was all answer."""
        if self._armed and not self.inside:
            self.answer_tokens, self.thinking_tokens = self.thinking_tokens, 0


def run(
    decoder: Decoder,
    turn: TurnCounts,
    markers: Markers,
    budget: ThinkingBudget,
    max_tokens: int,
    control: Control,
) -> Iterator[tuple[tuple[int, ...], bool]]:
    """Generate a turn, yielding (ids, generated): one token, or the stop text's, not generated.

    `max_tokens` bounds them all. The end-of-turn token is yielded too; `turn` says how it ended.
    """
    used = 0
    while used < max_tokens and turn.finish_reason == "length":
        token = decoder.step()
        used += 1
        turn.count(token, markers)
        yield (token,), True
        if turn.finish_reason == "length" and control.stopped:
            turn.finish_reason = "interrupted"
        elif turn.finish_reason == "length" and (cut := turn.cut_by(budget, control)):
            decoder.inject(budget.stop_ids)
            used += len(budget.stop_ids)
            turn.close(cut)
            yield budget.stop_ids, False
    turn.finalize_counts()

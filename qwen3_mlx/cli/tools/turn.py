"""A user turn with tools, in the form of a turn without: events, a `Done`, and an interrupt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from qwen3_mlx.events import (
    Answer,
    Done,
    FinishReason,
    Speculation,
    Stats,
    ToolCall,
    ToolCallDelta,
)
from qwen3_mlx.tools.events import Ending, LoopDone, LoopEvent, ToolResult, ToolRun
from qwen3_mlx.tools.tool import Tool

if TYPE_CHECKING:
    from qwen3_mlx.chat.session import ChatSession
    from qwen3_mlx.cli.tools.chat_tools import ChatTools

_FINISH: dict[Ending, FinishReason] = {"length": "length", "interrupted": "interrupted"}


class ToolTurn:
    """Runs one user turn of `session`, all its steps; `content` None answers the last anew.

    Iterating gives the steps' thoughts and answers, `ToolRun`, `ToolResult`, `LoopDone`, and at the
    end one `Done` with the counts of all steps.
    """

    def __init__(
        self,
        session: ChatSession,
        tools: ChatTools,
        content: str | None,
        *,
        offered: Callable[[], Sequence[Tool]] | None = None,
        **options: Any,
    ) -> None:
        """`offered` says which tools are on offer, if not all that run."""
        from qwen3_mlx.tools.loop import ToolLoop  # brings MLX

        self._tools, self._offered = tools, offered or tools.offered
        self._loop = ToolLoop(session, self._offered(), tools.consent)
        if content is None:
            self._events = self._loop.retry(**options)
        else:
            self._events = self._loop.send(content, **options)
        self._told = self._tell()
        self.ending: Ending = "interrupted"

    def __iter__(self) -> Iterator[LoopEvent]:
        return self._told

    def _tell(self) -> Iterator[LoopEvent]:
        steps: list[Done] = []
        for event in self._events:
            match event:
                case Done():
                    steps.append(event)
                case ToolCall() | ToolCallDelta():
                    pass  # what becomes of it follows
                case LoopDone(ending):
                    self.ending = ending
                    yield event
                    yield Done(_FINISH.get(ending, "stop"), together([s.stats for s in steps]))
                case ToolResult():
                    yield event
                    if self._tools.servers.changed:
                        self._loop.offer(self._offered())
                case _:
                    yield event

    def interrupt(self, kind: Literal["answer", "stop"] = "stop") -> None:
        """End the running call; without one, the thinking or the turn. From anywhere."""
        self._loop.interrupt(kind)

    def stop(self) -> None:
        """End the turn and the call that runs."""
        self._loop.stop()

    def close(self) -> None:
        """Abandon the turn."""
        self._loop.stop()
        for events in (self._told, self._events):
            if hasattr(events, "close"):
                events.close()


def together(steps: Sequence[Stats]) -> Stats:
    """The counts of a turn's steps: what was said in all of them, the prompt of the last."""
    if not steps:
        return Stats()
    return replace(
        steps[-1],
        thinking_tokens=sum(one.thinking_tokens for one in steps),
        answer_tokens=sum(one.answer_tokens for one in steps),
        thinking_cut=next((one.thinking_cut for one in steps if one.thinking_cut), ""),
        ttft_s=steps[0].ttft_s,
        speculation=_drafts([one.speculation for one in steps if one.speculation is not None]),
        probes=sum(one.probes for one in steps),
        probe_tokens=sum(one.probe_tokens for one in steps),
        probe_seconds=sum(one.probe_seconds for one in steps),
        peak_memory_bytes=max(one.peak_memory_bytes for one in steps),
    )


def _drafts(steps: Sequence[Speculation]) -> Speculation | None:
    """What drafts gave in all steps; how much faster it was is known of the last alone."""
    if not steps:
        return None
    return replace(
        steps[-1],
        rounds=sum(one.rounds for one in steps),
        drafted=sum(one.drafted for one in steps),
        accepted=sum(one.accepted for one in steps),
    )


def only_last_answer(
    events: Iterable[LoopEvent], aside: Callable[[str], object]
) -> Iterator[LoopEvent]:
    """Hold each step's answer until it is known to be the last; `aside` takes the others."""
    held: list[str] = []

    def taken() -> str:
        text = "".join(held)
        held.clear()
        return text

    try:
        for event in events:
            match event:
                case Answer(text):
                    held.append(text)
                    continue
                case ToolRun() | ToolResult() if held:
                    aside(taken())
                case LoopDone() if held:
                    yield Answer(taken())
            yield event
    finally:
        if held:
            aside(taken())

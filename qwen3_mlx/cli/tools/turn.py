"""A user turn with tools, with the interface of a turn without: events, `Done`, `interrupt`."""

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
    """Runs all steps of one user turn of `session`; `content` None retries the last message.

    Iterating yields the steps' thoughts and answers, `ToolRun`, `ToolResult`, `LoopDone`, and
    finally one `Done` with the counts of all steps.
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
        """offered: returns the tools on offer; by default all of the running servers."""
        from qwen3_mlx.tools.loop import ToolLoop  # brings MLX

        self._tools, self._offered = tools, offered or tools.offered
        self._loop = ToolLoop(session, self._offered(), tools.consent)
        if content is None:
            self._events = self._loop.retry(**options)
        else:
            self._events = self._loop.send(content, **options)
        self._stream = self._turn_events()
        self.ending: Ending = "interrupted"

    def __iter__(self) -> Iterator[LoopEvent]:
        return self._stream

    def _turn_events(self) -> Iterator[LoopEvent]:
        steps: list[Done] = []
        for event in self._events:
            match event:
                case Done():
                    steps.append(event)
                case ToolCall() | ToolCallDelta():
                    pass  # `ToolRun` or `ToolResult` follows
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
        """End the running call, or else the thinking or the turn. Any thread may call it."""
        self._loop.interrupt(kind)

    def stop(self) -> None:
        """End the turn and its running call."""
        self._loop.stop()

    def close(self) -> None:
        """Abandon the turn."""
        self._loop.stop()
        for events in (self._stream, self._events):
            if hasattr(events, "close"):
                events.close()


def together(steps: Sequence[Stats]) -> Stats:
    """The statistics of a turn's steps: generated tokens summed, the prompt of the last step."""
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
    """The steps' draft counts summed; the gain is the last step's."""
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
    """Delay each step's answer until it proves to be the last; `aside` gets the earlier ones."""
    pieces: list[str] = []

    def taken() -> str:
        text = "".join(pieces)
        pieces.clear()
        return text

    try:
        for event in events:
            match event:
                case Answer(text):
                    pieces.append(text)
                    continue
                case ToolRun() | ToolResult() if pieces:
                    aside(taken())
                case LoopDone() if pieces:
                    yield Answer(taken())
            yield event
    finally:
        if pieces:
            aside(taken())

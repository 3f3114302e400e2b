"""Prints a turn's events: the thought dim on stderr, the answer on stdout."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Protocol

from qwen3_mlx.cli.terminal.screen import Screen
from qwen3_mlx.cli.tools import shown
from qwen3_mlx.events import Answer, Done, Speculation, Thinking, ToolCall
from qwen3_mlx.tools.events import LoopDone, LoopEvent, ToolResult, ToolRun
from qwen3_mlx.tools.tool import Tool


class AnswerView(Protocol):
    """Shows the answer's text."""

    def write(self, text: str) -> None:
        """Add a piece of the answer."""

    def close(self) -> None:
        """End the answer and its line."""


class PlainAnswer:
    """Writes the answer unchanged, piece by piece."""

    def __init__(self, screen: Screen) -> None:
        self._screen, self._last = screen, ""

    def write(self, text: str) -> None:
        """Write `text` to stdout."""
        if text:
            self._screen.answer(text)
            self._last = text[-1]

    def close(self) -> None:
        """End the last line if it has no newline."""
        if self._last and self._last != "\n":
            self._screen.answer("\n")
        self._last = ""


class Renderer:
    """Prints one turn. On a terminal without styles, tags enclose the thought."""

    def __init__(self, screen: Screen, answer: AnswerView, *, hide_thinking: bool = False) -> None:
        self._screen, self._answer, self._hide = screen, answer, hide_thinking
        self._tags = screen.err_is_terminal and not screen.err_is_styled
        self._in_thought, self._last = False, ""
        self._shown_call: ToolCall | None = None
        self.is_silent = True
        """Whether no answer has come yet, since the turn began or a tool ran."""

    def paint(self, events: Iterable[LoopEvent]) -> Done | None:
        """Print all events; returns the `Done` if it comes."""
        try:
            for event in events:
                match event:
                    case Thinking(text):
                        self._think(text)
                    case Answer(text):
                        self.is_silent = self.is_silent and not text.strip()
                        self._end_thought()
                        self._answer.write(text)
                    case ToolCall(name, arguments):
                        self.is_silent = False
                        self._end_thought()
                        call = json.dumps({"name": name, "arguments": arguments})
                        self._answer.write(f"\n{call}\n")
                    case ToolRun(call, tool):
                        if call.id != (self._shown_call.id if self._shown_call else None):
                            self.show_call(call, tool)
                        if self._screen.is_watched:
                            self._screen.lines(["  running (Ctrl-C ends it)"])
                    case ToolResult():
                        self.is_silent = True  # the call is done; the answer is still to come
                        self._show_result(event)
                    case LoopDone(ending):
                        self.is_silent = self.is_silent and not shown.ENDINGS[ending]
                        self._screen.notes(filter(None, [shown.ENDINGS[ending]]))
                    case Done():
                        return event
            return None
        finally:
            self._end_thought()
            self._answer.close()

    def show_call(self, call: ToolCall, tool: Tool, *, is_question: bool = False) -> None:
        """Show a call with all arguments; `is_question` if the user is asked about it."""
        self._interrupt_text()
        self._shown_call = call if is_question else None
        self._screen.note(f"▸ {shown.title(tool)}")
        self._screen.lines(f"  {line}" for line in shown.argument_lines(call.arguments))

    def _show_result(self, result: ToolResult) -> None:
        self._interrupt_text()
        if result.tool is None:
            self._screen.note(f"▸ {shown.visible(result.call.name)}")
        self._screen.lines(f"  {line}" for line in shown.result_lines(result))

    def _interrupt_text(self) -> None:
        """End the lines of the thought and the answer so that a note can follow."""
        self._end_thought()
        self._answer.close()

    def _think(self, text: str) -> None:
        if self._hide or not text:
            return
        if not self._in_thought:
            self._answer.close()
            if self._tags:
                self._screen.thought("<think>\n")
        self._in_thought, self._last = True, text[-1]
        self._screen.thought(text)

    def _end_thought(self) -> None:
        """End the thought's line; on a terminal an empty line separates it from the answer."""
        if not self._in_thought:
            return
        self._in_thought = False
        end = "" if self._last == "\n" else "\n"
        tag = "</think>\n" if self._tags else ""
        self._screen.thought(end + tag + ("\n" if self._screen.err_is_terminal else ""))


def counted(count: int, noun: str) -> str:
    """Such as ``1 turn`` and ``2 turns``."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def footer(done: Done, budget: int | None) -> str:
    """One line about a turn: its tokens, its speed, and the thought's budget."""
    stats = done.stats
    parts = []
    if stats.thinking_tokens:
        limit = f"/{budget:,}" if budget else ""
        cut = f" ({_CUTS[stats.thinking_cut]})" if stats.thinking_cut else ""
        parts.append(f"{stats.thinking_tokens:,}{limit} thinking{cut}")
    if stats.probes:
        tokens = counted(stats.probe_tokens, "token")
        parts.append(f"{counted(stats.probes, 'probe')} of {tokens}")
    parts.append(f"{stats.answer_tokens:,} answer tokens")
    parts.append(f"{stats.decode_tps:.1f} tok/s")
    if stats.speculation is not None:
        parts.append(drafts(stats.speculation))
    parts.append(f"first after {stats.ttft_s:.1f} s")
    if done.finish_reason != "stop":
        parts.append(_ENDS[done.finish_reason])
    return " | ".join(parts)


MARKERS = 8
"""Most tokens of a turn that count as neither thought nor answer, such as ``</think>``."""


UNANSWERED = "the model ended its turn without an answer"
"""What is said of a turn that shows nothing: a model may end within its thought, or at once."""


def ending_note(done: Done | None, max_tokens: int | None, *, is_silent: bool) -> str:
    """Why nothing more came, for a pipe, which has no footer; "" for a whole answer."""
    if done is None or done.finish_reason != "length":
        return UNANSWERED if is_silent and done and done.finish_reason == "stop" else ""
    stats = done.stats
    counted = stats.thinking_tokens + stats.answer_tokens + MARKERS
    full = max_tokens is not None and counted >= max_tokens
    by = "max_tokens" if full else "the end of the context"
    if stats.answer_tokens:
        return f"the answer was cut by {by}"
    if stats.thinking_tokens:
        return f"cut by {by} before it answered (--budget N ends a thought in time)"
    return f"cut by {by}: no answer"


def drafts(speculation: Speculation) -> str:
    """A line about a turn's speculative decoding, or why it is off."""
    found = f"{speculation.accepted:,} of {speculation.drafted:,} drafts right"
    gain = f", {speculation.gain:.2f} ×" if speculation.gain else ""
    parts = [found + gain] if speculation.rounds else []
    return (
        "; ".join([*parts, *([f"drafts off: {speculation.off}"] if speculation.off else [])])
        or "no drafts"
    )


_CUTS = {"budget": "cut by the budget", "user": "cut by you", "sure": "sure of the answer"}
_ENDS = {"length": "answer cut by max_tokens or the context", "interrupted": "stopped by you"}

"""`generate` with tools: answers one question with the tools that ``--allow`` names."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3_mlx.cli import options as opt
from qwen3_mlx.cli.terminal.interrupt import interrupts_turn
from qwen3_mlx.cli.terminal.progress import ProgressLine
from qwen3_mlx.cli.terminal.render import PlainAnswer, Renderer, ending_note
from qwen3_mlx.cli.terminal.screen import Screen
from qwen3_mlx.cli.tools.chat_tools import ChatTools, check_tools
from qwen3_mlx.cli.tools.turn import ToolTurn, only_last_answer
from qwen3_mlx.errors import OptionError
from qwen3_mlx.events import Reply, Thinking
from qwen3_mlx.tools.events import LoopDone, LoopEvent, ToolResult, ToolRun
from qwen3_mlx.tools.tool import Tool

if TYPE_CHECKING:
    from qwen3_mlx.chat.session import ChatSession


def read(options: opt.ToolOptions, schemas: Path | None) -> ChatTools | None:
    """The tool servers of the command line, not started yet; None without ``--mcp``.

    schemas: the file of ``--tools``, which excludes ``--mcp``. Raises `OptionError`.
    """
    options.check()
    if options.mcp is None:
        return None
    if schemas is not None:
        raise OptionError("--tools and --mcp", expected="one of the two")
    tools = ChatTools(options.mcp, options.allow or ())
    if not options.allow:
        names = " ".join(f'--allow "{config.name}.*"' for config in tools.configs)
        hint = f"nobody is asked here; all of them: {names}"
        raise OptionError("--mcp without --allow: no tool may run", hint=hint)
    tools.only_allowed()
    return tools


class OneShot:
    """Answers one question with tools."""

    def __init__(
        self,
        name: str,
        session: ChatSession,
        tools: ChatTools,
        screen: Screen,
        *,
        hide_thinking: bool,
    ) -> None:
        self._name, self._session, self._tools = name, session, tools
        self._screen, self._hide = screen, hide_thinking

    def run(self, text: str, *, as_json: bool) -> bool:
        """Answer `text`; returns whether the user interrupted it.

        Raises `OptionError` if an allowed server doesn't start, and as `ChatSession.send`.
        """
        try:
            self._tools.start_all()
            for config in self._tools.configs:
                if why := self._tools.servers.failures.get(config.name):
                    raise OptionError(f"the server {config.name} doesn't run: {why}")
            self._screen.notes(self._tools.servers.remarks())
            check_tools(self._tools.consent.allowed, self._tools.offered())
            return self._answer(text, as_json)
        finally:
            self._tools.close()

    def _allowed(self) -> list[Tool]:
        """The allowed tools. Offering others would only waste steps on refused calls."""
        return [tool for tool in self._tools.offered() if self._tools.consent.allows(tool)]

    def _answer(self, text: str, as_json: bool) -> bool:
        screen, progress = self._screen, ProgressLine(self._screen, "reading the prompt")
        turn = ToolTurn(
            self._session, self._tools, text, offered=self._allowed, on_progress=progress
        )
        with interrupts_turn(turn, answer_first=False) as presses:
            events = progress.cleared_by(presses.watch(turn))
            if as_json:
                screen.json(f"{json.dumps(_record(self._name, events))}\n")
            else:
                if not screen.out_is_terminal:
                    events = only_last_answer(events, lambda text: screen.note(text.strip()))
                renderer = Renderer(screen, PlainAnswer(screen), hide_thinking=self._hide)
                done, limit = renderer.paint(events), self._session.options.max_tokens
                if note := ending_note(done, limit, is_silent=renderer.is_silent):
                    screen.note(note)
        return turn.ending == "interrupted"


def _record(name: str, events: Iterable[LoopEvent]) -> dict[str, Any]:
    """The object that ``--json`` prints for a turn with tools, with each call's result."""
    turn_events: list[Any] = []
    calls: list[dict[str, Any]] = []
    steps: dict[str, Any] = {}
    for event in events:
        match event:
            case ToolRun():
                pass
            case ToolResult():
                turn_events = [one for one in turn_events if isinstance(one, Thinking)]
                calls.append(_call(event))
            case LoopDone(ending, count):
                steps = {"ending": ending, "steps": count}
            case _:
                turn_events.append(event)
    result = record(name, Reply.from_events(turn_events))
    return result | {"tool_calls": calls} | steps


def _call(result: ToolResult) -> dict[str, Any]:
    call, tool = result.call, result.tool
    return {
        "name": call.name,
        "arguments": call.arguments,
        "server": tool.server if tool else None,
        "result": result.text,
        "failed": result.failed,
        "seconds": round(result.seconds, 3),
    }


def record(name: str, reply: Reply) -> dict[str, Any]:
    """The object that ``--json`` prints for a reply."""
    stats = reply.stats
    result: dict[str, Any] = {
        "model": name,
        "thinking": reply.thinking,
        "answer": reply.answer,
        "finish_reason": reply.finish_reason,
        "thinking_cut": stats.thinking_cut,
        "usage": {
            "prompt_tokens": stats.prompt_tokens,
            "cached_tokens": stats.cached_tokens,
            "thinking_tokens": stats.thinking_tokens,
            "answer_tokens": stats.answer_tokens,
        },
        "timings": {
            "ttft_s": stats.ttft_s,
            "prefill_tps": stats.prefill_tps,
            "decode_tps": stats.decode_tps,
        },
        "peak_memory_bytes": stats.peak_memory_bytes,
    }
    if stats.probes:
        result["probes"] = {
            "count": stats.probes,
            "tokens": stats.probe_tokens,
            "seconds": stats.probe_seconds,
        }
    if stats.speculation is not None:
        result["speculation"] = asdict(stats.speculation)
    if reply.tool_calls:
        calls = [{"name": call.name, "arguments": call.arguments} for call in reply.tool_calls]
        result["tool_calls"] = calls
    return result

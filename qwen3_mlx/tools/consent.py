"""Decides whether a call may run: the user is asked, the tool is allowed by name, or denied."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from qwen3_mlx.events import ToolCall
from qwen3_mlx.tools.tool import Tool


@dataclass(frozen=True, slots=True)
class Once:
    """Run this call, with `arguments` in place of the model's if they are given."""

    arguments: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Always:
    """Run this call, and later calls of this tool in the session without asking."""


@dataclass(frozen=True, slots=True)
class No:
    """Don't run this call; the model is told so, with the `reason`."""

    reason: str = ""


Decision = Once | Always | No
Ask = Callable[[ToolCall, Tool], Decision]
"""Shows the user a call with its server and all its arguments, and returns the user's decision."""

NOBODY_TO_ASK = "nobody is there to allow it"


class Consent:
    """The permissions of one session; they end with it.

    `allowed` are names of tools (``server.tool``, ``server.*``, or a function's name). `ask` is
    None if nobody can be asked: then all other tools are denied.
    """

    def __init__(self, ask: Ask | None = None, allowed: Collection[str] = ()) -> None:
        self._ask, self.allowed = ask, set(allowed)
        self._always: set[str] = set()

    def allows(self, tool: Tool) -> bool:
        """Whether `tool` runs without asking: allowed by name, or by the user for the session.

        The user's permission lapses if the server changes the tool's description, schema or hints.
        """
        names = {tool.full_name} | ({f"{tool.server}.*"} if tool.server else set())
        return bool(names & self.allowed) or _as_it_is(tool) in self._always

    def forget(self) -> None:
        """Revoke what the user allowed for the session."""
        self._always.clear()

    def decide(self, call: ToolCall, tool: Tool) -> Decision:
        """The decision on this call; asks the user unless the tool is allowed."""
        if self.allows(tool):
            return Once()
        if self._ask is None:
            return No(NOBODY_TO_ASK)
        decision = self._ask(call, tool)
        if isinstance(decision, Always):
            self._always.add(_as_it_is(tool))
        return decision


def _as_it_is(tool: Tool) -> str:
    """The tool's full name, description, schema and hints as one text, to detect changes."""
    known = [tool.full_name, tool.description, tool.parameters, tool.hints]
    return json.dumps(known, sort_keys=True)

"""Whether a call may run: asked of a person, allowed by name, or denied."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from qwen3_mlx.events import ToolCall
from qwen3_mlx.tools.tool import Tool


@dataclass(frozen=True, slots=True)
class Once:
    """Run this call; with `arguments` instead of the model's, if they are given."""

    arguments: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Always:
    """Run this call, and this tool without asking as long as the session lasts."""


@dataclass(frozen=True, slots=True)
class No:
    """Don't run it; the model is told, with the `reason`."""

    reason: str = ""


Decision = Once | Always | No
Ask = Callable[[ToolCall, Tool], Decision]
"""Shows a call with its server and all its arguments, and returns what a person says to it."""

NOBODY_TO_ASK = "nobody is there to allow it"


class Consent:
    """What may run in one session. Nothing of it is remembered behind it.

    `allowed` are tools by name (``server.tool``, ``server.*``, or a function's name); `ask` is
    None where nobody can be asked: then all others are denied.
    """

    def __init__(self, ask: Ask | None = None, allowed: Collection[str] = ()) -> None:
        self._ask, self.allowed = ask, set(allowed)
        self._always: set[str] = set()

    def allows(self, tool: Tool) -> bool:
        """Whether `tool` runs without asking: it is allowed by name, or was for the session.

        What a person allowed is this tool as it was; one that its server has changed is asked for.
        """
        names = {tool.full_name} | ({f"{tool.server}.*"} if tool.server else set())
        return bool(names & self.allowed) or _as_it_is(tool) in self._always

    def forget(self) -> None:
        """Ask again for what was allowed for the session."""
        self._always.clear()

    def decide(self, call: ToolCall, tool: Tool) -> Decision:
        """The decision on this call."""
        if self.allows(tool):
            return Once()
        if self._ask is None:
            return No(NOBODY_TO_ASK)
        decision = self._ask(call, tool)
        if isinstance(decision, Always):
            self._always.add(_as_it_is(tool))
        return decision


def _as_it_is(tool: Tool) -> str:
    """The tool and all that a person, or the model, knows of it."""
    known = [tool.full_name, tool.description, tool.parameters, tool.hints]
    return json.dumps(known, sort_keys=True)

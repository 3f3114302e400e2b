"""A tool: what the model reads about it, and what runs when it is called."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

CALL_SECONDS = 60.0
"""How long a call may take before it is given up."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a call gave: text for the model."""

    text: str
    failed: bool = False


class Cancel:
    """Asks a running call to end: an event that a call may wait for, or be told of."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._then: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    @property
    def asked(self) -> bool:
        """Whether the call is to end."""
        return self._event.is_set()

    def ask(self) -> None:
        """Have the call end; from any thread."""
        with self._lock:
            self._event.set()
            then, self._then = self._then, []
        for act in then:
            act()

    def then(self, act: Callable[[], object]) -> None:
        """Do `act` when asked; at once if that has been."""
        with self._lock:
            if not self._event.is_set():
                self._then.append(act)
                return
        act()


Run = Callable[[dict[str, Any], Cancel], Result]


@dataclass(frozen=True, slots=True)
class Tool:
    """One function on offer."""

    name: str
    """As the model calls it."""
    description: str
    parameters: dict[str, Any]
    """JSON Schema of an object."""
    run: Run = field(repr=False)
    """Blocks until the call is done, in a thread of its own; raises nothing but `ToolError`."""
    server: str = ""
    """The MCP server that runs it; empty: a function of this program."""
    called: str = ""
    """Its name at its server."""
    hints: tuple[str, ...] = ()
    """What the server claims of it, such as "read-only": to be shown, never trusted."""

    @property
    def full_name(self) -> str:
        """``server.tool``, by which it is allowed; the bare name of a function."""
        return f"{self.server}.{self.called or self.name}" if self.server else self.name

    def as_offer(self) -> dict[str, Any]:
        """The tool as a template renders it."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
        }
        return {"type": "function", "function": function}

"""A tool: its definition for the model, and the function that runs a call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

from qwen3_mlx.errors import shown
from qwen3_mlx.tools.surrogates import whole_text

CALL_SECONDS = 60.0
"""Seconds after which a call is cancelled."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a call: text for the model."""

    text: str
    failed: bool = False


def failure(error: BaseException) -> Result:
    """The result of a call that raised `error`, whose own ``__str__`` may raise too."""
    return Result(f"{type(error).__name__}: {shown(error, _plain_text, 10**6)}", failed=True)


def _plain_text(value: object) -> str:
    return whole_text(str(value))


class Cancel:
    """Requests that a running call end; the call polls `asked`, or registers a callback."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._then: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    @property
    def asked(self) -> bool:
        """Whether the call has been asked to end."""
        return self._event.is_set()

    def ask(self) -> None:
        """Ask the call to end, and run the callbacks; from any thread."""
        with self._lock:
            self._event.set()
            then, self._then = self._then, []
        for act in then:
            act()

    def then(self, act: Callable[[], object]) -> None:
        """Call `act` when the call is asked to end; at once if it already was."""
        with self._lock:
            if not self._event.is_set():
                self._then.append(act)
                return
        act()


Run = Callable[[dict[str, Any], Cancel], Result]


def _not_here(arguments: dict[str, Any], cancel: Cancel) -> Result:
    """What runs in the place of a function that stayed in another process."""
    return Result("this tool was pickled, and its function can't be", failed=True)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call.

    Pickled, as a part of an agent's reply, it keeps all but `run`, whose calls then fail.
    """

    name: str
    """The name that the model uses, unique among the tools on offer."""
    description: str
    parameters: dict[str, Any]
    """The arguments' JSON Schema, of type object."""
    run: Run = field(repr=False)
    """Runs a call, in a separate thread, and blocks; an exception becomes a failed result."""
    server: str = ""
    """The MCP server that runs the tool; empty for a function of this program."""
    called: str = ""
    """The tool's name at its server."""
    hints: tuple[str, ...] = ()
    """The server's claims about the tool, such as "read-only": shown, but never trusted."""

    @property
    def full_name(self) -> str:
        """The name used for consent: ``server.tool``, or a function's plain name."""
        return f"{self.server}.{self.called or self.name}" if self.server else self.name

    def __reduce__(self) -> tuple[Any, ...]:
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return partial(Tool, **values | {"run": _not_here}), ()

    def __deepcopy__(self, memo: object) -> Tool:
        return self  # not by `__reduce__`: here the function is at hand

    def __copy__(self) -> Tool:
        return self

    def as_offer(self) -> dict[str, Any]:
        """The tool definition that chat templates render."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
        }
        return {"type": "function", "function": function}

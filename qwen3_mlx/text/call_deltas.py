"""Streams a tool call while it is generated: its name, then its arguments as JSON text.

The pieces joined parse to the arguments of the whole call. Text that a repair could still change is
held back, and the call is announced with its first certain argument, or when it is whole. What was
sent of a call that turns out to be none is never whole JSON.
"""

from __future__ import annotations

import json
import re
from typing import Any, Protocol

from qwen3_mlx.events import ToolCall, ToolCallDelta
from qwen3_mlx.text.coder_call import FUNCTION
from qwen3_mlx.text.coder_deltas import CoderReader
from qwen3_mlx.text.json_deltas import JsonReader, closers
from qwen3_mlx.text.tool_calls import Offer

_HERMES = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]+)"\s*,\s*"(?:arguments|parameters)"\s*:\s*\{')


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


class _Reader(Protocol):
    def push(self, text: str) -> str: ...


class CallDeltas:
    """Makes the deltas of one call; `index` is its number within the turn, from 0."""

    def __init__(self, index: int, id: str, offer: Offer) -> None:
        self.index, self.id, self._offer = index, id, offer
        self._beginning = self._name = self._written = ""
        self._reader: _Reader | None = None
        self._stopped = False

    @property
    def announced(self) -> bool:
        """Whether a delta with the name was sent."""
        return bool(self._written)

    def push(self, text: str) -> list[ToolCallDelta]:
        """Append text of the call; returns the deltas that are now certain."""
        if self._stopped:
            return []
        if not self._name:
            self._beginning += text
            text = self._begin()
        if not self._reader or not (grown := self._reader.push(text)):
            return []
        first = [] if self.announced else [self._delta("", self._name)]
        self._written += grown
        return [*first, self._delta(grown)]

    def stop(self) -> None:
        """Send no more after a marker that may end the call; `finish` sends the rest."""
        self._stopped = True

    def finish(self, call: ToolCall) -> list[ToolCallDelta]:
        """The remaining delta of the parsed `call`, such that all parse to its arguments."""
        if not self.announced:
            return [self._delta(_dumps(call.arguments), call.name)]
        rest = _rest(self._written, call.arguments) if call.name == self._name else ""
        return [self._delta(rest)] if rest else []

    def _delta(self, arguments: str, name: str = "") -> ToolCallDelta:
        return ToolCallDelta(self.index, name, arguments, self.id)

    def _begin(self) -> str:
        """Find the call's name; returns the text behind the beginning of its arguments."""
        text = self._beginning.lstrip()
        coder = FUNCTION.match(text)
        begun = coder or _HERMES.match(text)
        if begun is None or (self._offer.known and not self._offer.has(begun[1].strip())):
            return ""
        self._name = begun[1].strip()
        self._reader = CoderReader(self._offer.types(self._name)) if coder else JsonReader()
        return text[begun.end() :]


def _rest(written: str, arguments: dict[str, Any]) -> str:
    """The JSON text that makes `arguments` of `written`; "" if that has a key which they lack.

    A repair can change a value that was sent already: its key follows once more with the right
    value, as the last value of a key counts.
    """
    whole = _dumps(arguments)
    if whole.startswith(written):
        return whole[len(written) :]
    ends = closers(written)
    said = json.loads(written + ends)
    if not arguments.keys() >= said.keys():
        return ""
    changed = {k: v for k, v in arguments.items() if k not in said or _dumps(said[k]) != _dumps(v)}
    more = f", {_dumps(changed)[1:-1]}" if changed else ""
    return f"{ends[:-1]}{more}}}"

"""Streams a tool call while it is generated: its name, then its arguments as JSON text.

The pieces joined are always a prefix of ``json.dumps(arguments)``; text that a repair of damaged
JSON could still change is held back. The rest is sent when the whole call is parsed; if the parsed
call contradicts the pieces sent, no more are sent.
"""

from __future__ import annotations

import json
import re
from typing import Any, Protocol

from qwen3_mlx.events import ToolCall, ToolCallDelta
from qwen3_mlx.text.argument_types import ArgumentTypes
from qwen3_mlx.text.coder_call import CLOSE, FUNCTION, NAME, value_text
from qwen3_mlx.text.tool_calls import Offer

_HERMES = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]+)"\s*,\s*"(?:arguments|parameters)"\s*:\s*\{')
_TOKEN = re.compile(r'\s*(?:([{}\[\],:"])|([^\s{}\[\],:"]+)(?=[\s{}\[\],:"]))')
_STRING = re.compile(
    r'[^"\\\x00-\x1f]+|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}'
    r'|\\u(?![dD][89a-fA-F])[0-9a-fA-F]{4}|\\["\\/bfnrt]|(")'
)
_BEHIND_MARK = {",": ", ", ":": ": "}
_PARAMETER = re.compile(rf"\s*<\s*parameter{NAME}(?=\r\n|[^\r])(\r?\n)?")
_END = re.compile(rf"(?:\r?\n)?{CLOSE}\s*(?=<\s*parameter|<[/\\]\s*function)")
# The beginning of a possible tag of the format at the end of the text so far.
_MAY_END = re.compile(
    r"<\s*(?:[/\\]\s*)?(?:(?:param|func).*|(?:p(?:ar?)?|f(?:un?)?|para)?)$", re.DOTALL
)
_LONGEST_HELD = 4_000  # most characters held back: a possible tag, or a value that isn't text


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

    def push(self, text: str) -> list[ToolCallDelta]:
        """Append text of the call; returns the deltas that are now certain."""
        deltas: list[ToolCallDelta] = []
        if not self._name:
            self._beginning += text
            deltas, text = self._begin()
        if self._reader and (grown := self._reader.push(text)):
            self._written += grown
            deltas.append(self._delta(grown))
        return deltas

    def stop(self) -> None:
        """Send no more after a marker that may end the call; `finish` sends the rest."""
        self._reader = None

    def finish(self, call: ToolCall) -> list[ToolCallDelta]:
        """The remaining delta of the parsed `call`; none if it contradicts the deltas sent."""
        whole = _dumps(call.arguments)
        if not self._name:
            return [self._delta(whole, call.name)]
        same = call.name == self._name and whole.startswith(self._written)
        rest = whole[len(self._written) :] if same else ""
        return [self._delta(rest)] if rest else []

    def _delta(self, arguments: str, name: str = "") -> ToolCallDelta:
        return ToolCallDelta(self.index, name, arguments, self.id)

    def _begin(self) -> tuple[list[ToolCallDelta], str]:
        text = self._beginning.lstrip()
        coder = FUNCTION.match(text)
        begun = coder or _HERMES.match(text)
        if begun is None or (self._offer.known and not self._offer.has(begun[1].strip())):
            return [], ""
        self._name = begun[1].strip()
        self._reader = _CoderReader(self._offer.types(self._name)) if coder else _JsonReader()
        return [self._delta("", self._name)], text[begun.end() :]


class _JsonReader:
    """Reads a Hermes call's arguments after the opening brace; returns them in normalised JSON."""

    def __init__(self) -> None:
        self._text, self._depth, self._in_string = "", 1, False
        self._waiting = "{"  # brackets and commas are held back until the next token

    def push(self, text: str) -> str:
        self._text += text
        position, parts = 0, []
        while self._depth:
            found = (_STRING if self._in_string else _TOKEN).match(self._text, position)
            if found is None:
                break
            position = found.end()
            parts.append(self._in(found) if self._in_string else self._token(found))
        self._text = self._text[position:]
        return "".join(parts)

    def _in(self, found: re.Match[str]) -> str:
        self._in_string = found[1] is None
        return _dumps(json.loads(f'"{found[0]}"'))[1:-1] if self._in_string else '"'

    def _token(self, found: re.Match[str]) -> str:
        mark, waiting, self._waiting = found[1] or "", self._waiting, ""
        if mark in _BEHIND_MARK:
            self._waiting = waiting + _BEHIND_MARK[mark]
            return ""
        if mark in ("}", "]"):
            self._depth -= 1
            return waiting.removesuffix(", ") + mark if self._depth else ""
        self._depth += mark in ("{", "[") and mark != ""
        self._in_string = mark == '"'
        try:
            return waiting + (mark or _dumps(json.loads(found[2])))
        except ValueError:  # not JSON: `finish` sends it if the whole call can be parsed
            self._depth = 0
            return ""


class _CoderReader:
    """Reads a Coder call's parameters: text values are streamed, others sent when complete."""

    def __init__(self, types: ArgumentTypes) -> None:
        self._types = types
        self._text = self._key = ""
        self._started = False
        self._separator = "{"

    def push(self, text: str) -> str:
        if len(self._text) > _LONGEST_HELD:  # `finish` sends the rest
            return ""
        self._text += text
        parts: list[str] = []
        while grown := self._step():
            parts.append(grown)
        return "".join(parts)

    def _step(self) -> str:
        if not self._key:
            opened = _PARAMETER.match(self._text)
            if opened is None:
                return ""
            self._key, self._text = opened[1].strip(), self._text[opened.end() :]
        ended, streams = _END.search(self._text), self._types.streams(self._key)
        if ended is not None:
            raw, self._text = self._text[: ended.start()], self._text[ended.end() :]
            value = raw if streams else self._types.value(self._key, value_text(raw))
            grown = _dumps(value)[1:] if self._started else self._begin() + _dumps(value)
            self._key, self._started = "", False
            return grown
        return self._grow() if streams else ""

    def _grow(self) -> str:
        """The JSON of the text that certainly belongs to the current value."""
        held = _MAY_END.search(self._text)
        safe = (self._text[: held.start()] if held else self._text).rstrip("\r\n")
        if not safe:
            return ""
        self._text = self._text[len(safe) :]
        before = "" if self._started else self._begin() + '"'
        self._started = True
        return before + _dumps(safe)[1:-1]

    def _begin(self) -> str:
        separator, self._separator = self._separator, ", "
        return f"{separator}{_dumps(self._key)}: "

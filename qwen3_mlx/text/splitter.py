"""Which tokens of a turn are thought, answer and tool call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from qwen3_mlx.events import Answer, Event, Thinking
from qwen3_mlx.text.markers import Marker, MarkerStream, Piece
from qwen3_mlx.text.mode import Mode
from qwen3_mlx.text.tokenizer import Tokenizer
from qwen3_mlx.text.tool_calls import parse_tool_call


class Splitter:
    """Turns the ids of one turn into events; how the ids are chunked makes no difference.

    Newlines that frame thought and answer are dropped, markers and end tokens never shown. A
    ``<tool_call>`` inside a thought ends the thought if a valid call follows; otherwise it was
    thought too. A call that can't be read is text, so nothing is lost.
    """

    def __init__(self, tokenizer: Tokenizer, mode: Mode) -> None:
        self._pieces = MarkerStream(tokenizer)
        self._has_tool_token = tokenizer.tool_open is not None
        self._thought, self._answer = _Text(Thinking), _Text(Answer)
        self._inside = mode.starts_inside
        self._call: list[str] | None = None

    def push(self, ids: Sequence[int]) -> list[Event]:
        """The events that `ids` complete."""
        pieces = (piece for token in ids for piece in self._pieces.push(token))
        return _merge(event for piece in pieces for event in self._take(piece))

    def flush(self) -> list[Event]:
        """The turn is over: what was held back."""
        events = [event for piece in self._pieces.flush() for event in self._take(piece)]
        if self._call is not None:
            events += self._abandon_call()
        return _merge(events + self._text.flush())

    @property
    def _text(self) -> _Text:
        return self._thought if self._inside else self._answer

    def _take(self, piece: Piece) -> list[Event]:
        if self._call is not None:
            return self._collect(self._call, piece)
        match piece:
            case Marker.THINK_OPEN:
                self._inside = True
            case Marker.THINK_CLOSE:
                self._close()
            case Marker.TOOL_OPEN if self._has_tool_token or not self._inside:
                self._call = []
            case Marker():
                return self._text.push(piece.value)
            case _:
                return self._text.push(piece)
        return []

    def _close(self) -> None:
        self._inside = False
        self._thought.seal()

    def _collect(self, call: list[str], piece: Piece) -> list[Event]:
        if piece is Marker.TOOL_CLOSE:
            return self._finish_call("".join(call))
        if piece is Marker.TOOL_OPEN or (piece is Marker.THINK_CLOSE and self._inside):
            return [*self._abandon_call(), *self._take(piece)]
        call.append(piece.value if isinstance(piece, Marker) else piece)
        return []

    def _finish_call(self, text: str) -> list[Event]:
        try:
            call = parse_tool_call(text)
        except ValueError:
            return self._abandon_call(Marker.TOOL_CLOSE.value)
        if self._inside:
            self._close()
        self._answer.seal()
        self._call = None
        return [call]

    def _abandon_call(self, closer: str = "") -> list[Event]:
        """It was no call: show it as the text it is."""
        text = "".join([Marker.TOOL_OPEN.value, *(self._call or ()), closer])
        self._call = None
        return self._text.push(text)


class _Text:
    """One kind of text without the newlines around it: those at the end wait for more text."""

    def __init__(self, event: type[Thinking] | type[Answer]) -> None:
        self._event = event
        self._newlines = 0
        self._started = self._sealed = False

    def push(self, text: str) -> list[Event]:
        if not self._started:
            text = text.lstrip("\n")
        body = text.rstrip("\n")
        held, self._newlines = self._newlines, len(text) - len(body)
        if not body:
            self._newlines += held
            return []
        self._started, self._sealed = True, False
        return [self._event("\n" * held + body)]

    def seal(self) -> None:
        """A marker ended the text: newlines before it matter only if the text goes on."""
        self._sealed = True

    def flush(self) -> list[Event]:
        held, self._newlines = self._newlines, 0
        return [self._event("\n" * held)] if held and not self._sealed else []


def _merge(events: Iterable[Event]) -> list[Event]:
    """Neighbouring pieces of one text become one event."""
    merged: list[Event] = []
    for kind, group in groupby(events, type):
        run = list(group)
        text = "".join(event.text for event in run if isinstance(event, Thinking | Answer))
        merged += [kind(text)] if text else run
    return merged

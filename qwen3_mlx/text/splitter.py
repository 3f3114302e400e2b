"""Splits the tokens of a turn into thinking, answer and tool calls."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

from qwen3_mlx.events import Answer, Event, Thinking
from qwen3_mlx.text.bare_calls import BareCalls
from qwen3_mlx.text.call_buffer import CallBuffer, joined
from qwen3_mlx.text.call_deltas import CallDeltas
from qwen3_mlx.text.coder_call import FUNCTION_CLOSE, inside_value
from qwen3_mlx.text.markers import Marker, MarkerStream, Piece
from qwen3_mlx.text.mode import Mode
from qwen3_mlx.text.tokenizer import Tokenizer
from qwen3_mlx.text.tool_calls import Offer, Tools, parse_tool_calls

_CLOSER_PIECES = len("</function>") + 4  # most pieces of the tag, allowing for some blanks


class Splitter:
    """Turns the ids of one turn into events, independently of how the ids are chunked.

    Newlines around thinking and answer are dropped; markers and end tokens are never shown. After
    closed thinking and some answer, ``<think>`` and ``</think>`` are text. A ``<tool_call>`` inside
    thinking ends it if a valid call follows; otherwise it is thinking text. A call that can't be
    parsed is shown as text, so nothing is lost.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        mode: Mode,
        tools: Tools | None = None,
        deltas: bool = False,
    ) -> None:
        """`tools` are those on offer; an empty list accepts no call, None accepts any call.

        With `deltas`, `ToolCallDelta` events are sent while a call is generated.
        """
        self._pieces = MarkerStream(tokenizer)
        self._has_tool_token = tokenizer.tool_open is not None
        self._offer = Offer(tools)
        self._bare = None if tools is None or self._offer.nothing else BareCalls(self._offer.has)
        self._thought, self._answer = _Text(Thinking), _Text(Answer)
        self._inside = mode.starts_inside
        self._thought_closed = not mode.thinking
        self._call: CallBuffer | None = None
        self._behind_call = False
        self._deltas, self._calls = deltas, 0

    def resume(self) -> None:
        """Continue a text begun earlier: newlines at the beginning of the next ids are kept."""
        self._text.started = True

    def push(self, ids: Sequence[int]) -> list[Event]:
        """The events that `ids` complete."""
        pieces = (piece for token in ids for piece in self._pieces.push(token))
        return _merge(event for piece in pieces for event in self._take(piece))

    def flush(self, truncated: bool = False) -> list[Event]:
        """End the turn; returns the events that were held back.

        A call without a closing marker counts if it parses, unless the turn was `truncated`.
        """
        events = [event for piece in self._pieces.flush() for event in self._take(piece)]
        events += self._release()
        while (call := self._call) is not None:
            events += self._abandon(call) if truncated and not call.cuts else self._end(call)
            events += self._release()
        return _merge(events + self._text.flush())

    @property
    def _text(self) -> _Text:
        return self._thought if self._inside else self._answer

    def _take(self, piece: Piece) -> list[Event]:
        if self._call is not None:
            return self._collect(self._call, piece)
        if not isinstance(piece, Marker):
            return self._take_text(piece)
        return [*self._release(), *self._take_marker(piece)]

    def _take_marker(self, marker: Marker) -> list[Event]:
        answered = self._thought_closed and not self._inside and self._answer.started
        match marker:
            case Marker.THINK_OPEN if not answered:
                self._inside, self._thought_closed = True, False
            case Marker.THINK_CLOSE if not answered:
                self._close()
            case Marker.TOOL_OPEN if self._opens_call():
                self._call = self._new_call(Marker.TOOL_OPEN.value)
            case Marker.TOOL_CLOSE if self._behind_call:
                pass  # a surplus closing marker after a call
            case _:
                return self._text.push(marker.value) if marker.value else []
        return []

    def _take_text(self, text: str) -> list[Event]:
        opened = ""
        if self._bare and not self._inside:
            text, opened = self._bare.push(text)
        if text.strip():
            self._behind_call = False
        events = self._text.push(text) if text else []
        if opened:
            self._call = self._new_call("")
            events += self._collect(self._call, opened)
        return events

    def _release(self) -> list[Event]:
        """The events of text held back as the possible beginning of a bare call."""
        if self._bare is None or self._call is not None:
            return []
        held = self._bare.flush()
        return self._text.push(held) if held else []

    def _opens_call(self) -> bool:
        return not self._offer.nothing and (self._has_tool_token or not self._inside)

    def _close(self) -> None:
        self._thought_closed = self._thought_closed or self._inside
        self._inside = False
        self._thought.seal()

    def _new_call(self, opener: str) -> CallBuffer:
        deltas = CallDeltas(self._calls, new_id(), self._offer) if self._deltas else None
        return CallBuffer(opener, deltas=deltas)

    def _collect(self, call: CallBuffer, piece: Piece) -> list[Event]:
        if piece is Marker.END:
            return []
        if piece is Marker.THINK_CLOSE and self._inside:
            return [*self._abandon(call), *self._take(piece)]
        if piece is Marker.TOOL_OPEN or piece is Marker.TOOL_CLOSE:
            return self._end_or_cut(call, piece)
        call.append(piece)
        text = piece.value if isinstance(piece, Marker) else piece
        grown: list[Event] = []
        if call.deltas and not self._inside:
            grown += call.deltas.push(text)
        return [*grown, *self._end_bare(call)] if call.is_bare and ">" in text else grown

    def _end_or_cut(self, call: CallBuffer, marker: Marker) -> list[Event]:
        """End the call at `marker`; if that may be part of a value, only record a cut."""
        if not self._inside and call.may_go_on():
            call.cut(marker)
            return self._end(call) if call.is_full else []
        if marker is Marker.TOOL_OPEN:
            return [*self._end(call), *self._take(marker)]
        return self._end(call, marker.value)

    def _end_bare(self, call: CallBuffer) -> list[Event]:
        """End a call without ``<tool_call>`` at its ``</function>``."""
        tail = joined(call.pieces[-_CLOSER_PIECES:])
        if call.is_full or not FUNCTION_CLOSE.search(tail):
            return []
        call.tries += 1
        text = call.text
        closers = list(FUNCTION_CLOSE.finditer(text))
        if not closers or inside_value(head := text[: closers[-1].end()]):
            return []
        call.pieces, call.cuts = [head], []
        rest = text[len(head) :]
        return [*self._end(call), *(self._take(rest) if rest else [])]

    def _end(self, call: CallBuffer, closer: str = "") -> list[Event]:
        """Parse the call; failing that, end it at its first cut and split the rest anew."""
        if not (call.cuts and call.may_go_on()) and (events := self._read(call)):
            return events
        if call.is_bare and not call.cuts and (closed := FUNCTION_CLOSE.search(call.text)):
            text = call.text
            call.pieces = [text[: closed.end()], *([text[closed.end() :]] if closed else [])]
            call.cuts = [1]
        if not call.cuts:
            return self._abandon(call, closer)
        at = call.cuts[0]
        before, rest = call.pieces[:at], call.pieces[at:]
        if closer:
            rest.append(Marker.TOOL_CLOSE)
        ended = CallBuffer(call.opener, before, deltas=call.deltas)
        if rest[0] is Marker.TOOL_CLOSE:
            events = self._read(ended) or self._abandon(ended, Marker.TOOL_CLOSE.value)
            rest = rest[1:]
        else:
            events = self._read(ended) or self._abandon(ended)
        return [*events, *(event for piece in rest for event in self._take(piece))]

    def _read(self, buffer: CallBuffer) -> list[Event]:
        """The events of the calls in `buffer`; none if its text can't be parsed as calls."""
        try:
            calls = parse_tool_calls(buffer.text, self._offer)
        except ValueError:
            return []
        if self._inside:
            self._close()
        self._answer.seal()
        self._call, self._behind_call = None, True
        events: list[Event] = []
        deltas = buffer.deltas
        for call in calls:
            call = replace(call, id=deltas.id if deltas else new_id())
            self._calls += 1
            events += [*deltas.finish(call), call] if deltas else [call]
            deltas = CallDeltas(self._calls, new_id(), self._offer) if self._deltas else None
        return events

    def _abandon(self, call: CallBuffer, closer: str = "") -> list[Event]:
        """The buffer's content, which is no call, as text."""
        self._call = None
        if call.deltas and call.deltas.announced:  # its number is taken
            self._calls += 1
        return self._text.push(call.opener + joined(call.pieces) + closer)


def new_id() -> str:
    """A random call id: ``call_`` and 16 hexadecimal digits."""
    return f"call_{secrets.token_hex(8)}"


class _Text:
    """Drops the newlines around one kind of text; trailing ones are held until more text comes."""

    def __init__(self, event: type[Thinking] | type[Answer]) -> None:
        self._event = event
        self._newlines = 0
        self.started = self._sealed = False

    def push(self, text: str) -> list[Event]:
        if not self.started:
            text = text.lstrip("\n")
        body = text.rstrip("\n")
        held, self._newlines = self._newlines, len(text) - len(body)
        if not body:
            self._newlines += held
            return []
        self.started, self._sealed = True, False
        return [self._event("\n" * held + body)]

    def seal(self) -> None:
        """Mark the text as ended: its trailing newlines are shown only if more text follows."""
        self._sealed = True

    def flush(self) -> list[Event]:
        held, self._newlines = self._newlines, 0
        return [self._event("\n" * held)] if held and not self._sealed else []


def _merge(events: Iterable[Event]) -> list[Event]:
    """Join adjacent `Thinking` or `Answer` events."""
    merged: list[Event] = []
    for kind, group in groupby(events, type):
        run = list(group)
        text = "".join(event.text for event in run if isinstance(event, Thinking | Answer))
        merged += [kind(text)] if text else run
    return merged

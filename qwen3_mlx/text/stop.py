"""Stop sequences: texts that end a turn, also across token borders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from qwen3_mlx.errors import OptionError, brief, shown
from qwen3_mlx.events import Answer, Event, Thinking

Where = Literal["answer", "thinking", "both"]
"""The text in which a stop sequence ends the turn."""


class StopSequences:
    """Passes text on until a stop sequence is complete; holds back a possible beginning of one.

    The sequence completed first ends the text; of two completed at once, the longer one. Neither
    the sequence nor text after it is shown. How the text is chunked makes no difference.
    """

    def __init__(self, stops: str | Sequence[str], where: Where = "answer") -> None:
        """Raises `OptionError` unless `stops` are texts of at least one character."""
        if where not in ("answer", "thinking", "both"):
            expected = "'answer', 'thinking' or 'both'"
            raise OptionError("where stop sequences count", got=shown(where), expected=expected)
        self.where = where
        self._matches = [_Match(stop) for stop in _checked(stops)]
        self._held = ""
        self._hit = False
        self.stopped_by: str | None = None
        """The stop sequence that was found; None before."""
        self._kind: type[Thinking | Answer] = Answer

    @property
    def hit(self) -> bool:
        """Whether a stop sequence has been found."""
        return self._hit

    def push(self, text: str) -> tuple[str, bool]:
        """The text that can be shown now, and whether a stop sequence has been found."""
        if self._hit or not self._matches:
            return "" if self._hit else text, self._hit
        for index, character in enumerate(text):
            found = [match.stop for match in self._matches if match.step(character)]
            if found:
                shown = self._held + text[: index + 1]
                self._held, self._hit = "", True
                self.stopped_by = stop = max(found, key=len)
                return shown[: len(shown) - len(stop)], True
        held = max(match.state for match in self._matches)
        shown = self._held + text
        self._held = shown[len(shown) - held :]
        return shown[: len(shown) - held], False

    def flush(self) -> str:
        """End the text; returns the text held back. The next `push` begins a new text."""
        held, self._held = self._held, ""
        for match in self._matches:
            match.state = 0
        return held

    def push_events(self, events: Iterable[Event]) -> tuple[list[Event], bool]:
        """The events that can be passed on now, and whether a stop sequence has been found.

        A sequence is found within the thinking or the answer, never across their border.
        """
        shown: list[Event] = []
        for event in events:
            if self._hit:
                break
            if not isinstance(event, Thinking | Answer):
                shown += [*self.flush_events(), event]
                continue
            if type(event) is not self._kind:
                shown += self.flush_events()
                self._kind = type(event)
            text = self.push(event.text)[0] if self._counts(self._kind) else event.text
            shown += [self._kind(text)] if text else []
        return shown, self._hit

    def flush_events(self) -> list[Event]:
        """End a turn without a stop sequence; returns the text held back as an event."""
        held = self.flush()
        return [self._kind(held)] if held else []

    def _counts(self, kind: type[Thinking | Answer]) -> bool:
        return self.where == "both" or (self.where == "thinking") is (kind is Thinking)


class _Match:
    """Matches one stop sequence incrementally (Knuth, Morris and Pratt).

    `state` is the length of the longest prefix of the sequence with which the text ends.
    """

    def __init__(self, stop: str) -> None:
        self.stop, self.length = stop, len(stop)
        self._shorter = [0] * len(stop)  # the longest border of the first n+1 characters
        self.state = 0
        for n in range(1, len(stop)):
            self._shorter[n] = self._next(self._shorter[n - 1], stop[n])

    def step(self, character: str) -> bool:
        """Append a character of text; returns whether it completes the stop sequence."""
        self.state = self._next(self.state, character)
        return self.state == self.length

    def _next(self, state: int, character: str) -> int:
        while state and self.stop[state] != character:
            state = self._shorter[state - 1]
        return state + (self.stop[state] == character)


def _checked(stops: object) -> list[str]:
    texts = [stops] if isinstance(stops, str) else stops
    expected = "a text, or a list of texts, of at least one character each"
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise OptionError("stop", got=brief(stops), expected=expected)
    for text in texts:
        if not text:
            hint = "an empty text stands everywhere; leave stop out to let the model end its turn"
            raise OptionError("stop", got="a text of length 0", expected=expected, hint=hint)
        if any("\ud800" <= character <= "\udfff" for character in text):
            got = f"{text[:40]!a}, which has a lone surrogate"
            raise OptionError("stop", got=got, expected="valid Unicode")
    return list(dict.fromkeys(texts))

"""Tells of each generated token's log probability which text its token went into."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from qwen3_mlx.events import Answer, Event, Part, Thinking, TokenLogprob, ToolCall
from qwen3_mlx.text.call_buffer import joined
from qwen3_mlx.text.markers import MarkerStream
from qwen3_mlx.text.tokenizer import Tokenizer


@dataclass(slots=True)
class _Token:
    """A token whose text has not been shown yet, or only the beginning of it."""

    logprob: TokenLogprob | None
    """None for a token that was not sampled."""
    text: str
    ends: bool
    """Whether it completes its text; False for a part of a character."""
    left: str
    shown: str = ""
    part: Part = ""

    def take(self, text: str, part: Part) -> None:
        """Show `text`, with which `left` begins or which stood before the token."""
        self.shown, self.part = self.shown + text, part


class LogprobParts:
    """Pairs tokens with the events that show their text, in order.

    Markers, the line breaks around thought and answer, and the stop text are shown nowhere; the
    text of a call is in its `ToolCall`.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._pieces = MarkerStream(tokenizer)
        self._waiting: list[_Token] = []

    def add(self, ids: Sequence[int], logprob: TokenLogprob | None) -> None:
        """Note tokens of the turn; `logprob` is that of the first, None if it wasn't sampled."""
        for n, token in enumerate(ids):
            pieces = self._pieces.push(token)
            text = joined(pieces)
            self._waiting.append(_Token(None if n else logprob, text, bool(pieces), text))

    def placed(self, events: Sequence[Event]) -> list[Event]:
        """`events`, each behind the log probabilities of the tokens whose text it completes."""
        found: list[Event] = []
        for n, event in enumerate(events):
            match event:
                case Answer(text):
                    self._show(text, "answer")
                case Thinking(text):
                    self._show(text, "thought")
                case ToolCall():
                    self._call(events[n + 1 :])
            found += [*self._ready(), event]
        return found

    def rest(self) -> list[Event]:
        """The log probabilities of the tokens that are left at the end of the turn."""
        for token in self._waiting:
            token.left, token.ends = "", True
        return self._ready()

    def _show(self, text: str, part: Part) -> None:
        for token in self._waiting:
            if not text:
                return
            if not token.left:
                continue
            before, text = _meet(token, text)
            count = _common(token.left, text)
            if count:
                token.take(before + text[:count], part)
            text = text[count:] if count else before + text
            token.left = token.left[count:] if count and not text else ""

    def _call(self, behind: Iterable[Event]) -> None:
        """Count the tokens before the text `behind` the call as the call's."""
        texts = (event.text for event in behind if isinstance(event, Answer | Thinking))
        following = next(texts, "").strip("\n")
        whole = "".join(token.left for token in self._waiting)
        at = whole.rfind(following) if following else -1
        end = at if at >= 0 else len(whole)
        position = 0
        for token in self._waiting:
            position += len(token.left)
            if position <= end and token.left:
                token.left, token.part = "", token.part or "call"

    def _ready(self) -> list[Event]:
        """The tokens that are known for good; those of one character together."""
        found: list[Event] = []
        group: list[_Token] = []
        count = 0
        for n, token in enumerate(self._waiting):
            if token.left:
                break
            group.append(token)
            if token.ends:
                found += _resolved(group)
                group, count = [], n + 1
        del self._waiting[:count]
        return found


def _meet(token: _Token, text: str) -> tuple[str, str]:
    """Drop line breaks of the token that aren't shown; split off those of `text` before it."""
    bare = token.left.lstrip("\n")
    if bare and not _common(token.left, text) and _common(bare, text):
        token.left = bare
    behind = text.lstrip("\n")
    if behind and not _common(token.left, text) and _common(token.left, behind):
        return text[: -len(behind)], behind
    return "", text


def _common(left: str, text: str) -> int:
    """The number of characters with which both begin, if that is all of one of them; else 0."""
    count = min(len(left), len(text))
    return count if left[:count] == text[:count] else 0


def _resolved(group: list[_Token]) -> list[Event]:
    last = group[-1]
    data = last.shown.encode("utf-8", "replace")
    found: list[Event] = []
    for token in group:
        if token.logprob is None:
            continue
        own = token.logprob.bytes
        if last.shown != last.text:  # only some of it is shown
            own, data = (data, b"") if token is last else (data[: len(own)], data[len(own) :])
        shown = own if last.part in ("answer", "thought") else b""
        found.append(replace(token.logprob, part=last.part, shown=shown))
    return found

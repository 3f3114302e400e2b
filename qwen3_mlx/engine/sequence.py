"""The state machine of one turn: after each token it decides to go on, inject, probe or end.

Qwen's documented procedure (quickstart, "Thinking Budget") makes two calls: generate at most
`budget` tokens; if ``</think>`` hasn't come, append the stop text and generate the rest. Here the
host compares counts after each token. docs/design.md lists the differences between the two.
"""

from __future__ import annotations

import codecs
from collections import deque
from dataclasses import dataclass, field

from qwen3_mlx.engine.control import Control
from qwen3_mlx.engine.decision import Ask, Decision, End, GoOn, Inject
from qwen3_mlx.engine.guide import Guide
from qwen3_mlx.engine.markers import Markers, Place
from qwen3_mlx.engine.probe_schedule import ProbeSchedule
from qwen3_mlx.engine.short_answer import ShortAnswer
from qwen3_mlx.events import FinishReason, ThinkingCut
from qwen3_mlx.options.thinking_budget import ThinkingBudget

PATIENCE = 3
"""Tokens that a cut may wait for the end of a character: UTF-8 has at most four bytes."""

OPENER, CLOSER = b"<think>", b"</think>"
_CALL_BEGINS = (b"{", b"[", b"<", b"`")


_GO_ON = GoOn()


@dataclass(slots=True)
class TurnSequence:
    """Counts a turn's tokens and enforces the thinking budget.

    `inside`: the prompt ends in an open ``<think>``; `closed`: in a closed one. All think blocks of
    a turn share one budget, whoever opens them. After a cut, `budget.close_ids` closes every later
    block at once.
    """

    markers: Markers
    budget: ThinkingBudget
    max_tokens: int
    control: Control = field(default_factory=Control)
    inside: bool = False
    closed: bool = False
    guide: Guide | None = None
    """Restricts the answer to a grammar."""
    probing: ProbeSchedule | None = None
    """Decides when a probe may end the thought before the budget does."""
    thinking_tokens: int = 0
    """Tokens generated before ``</think>``: an opening marker counts, injected ids don't."""
    answer_tokens: int = 0
    used: int = 0
    """Generated and injected ids, the end of the turn included."""
    cut: ThinkingCut = ""
    finish_reason: FinishReason = "length"
    _place: Place = field(init=False)
    _ended: FinishReason | None = None
    _spoken: bool = False
    _pending: list[int] = field(default_factory=list)
    _call: list[int] = field(default_factory=list)
    _call_in_thought: bool = False
    _recent: deque[int] = field(default_factory=lambda: deque(maxlen=PATIENCE + 1))
    _spelled: bytes = b""
    _waited: int = 0

    def __post_init__(self) -> None:
        self._place = Place.THOUGHT if self.inside else Place.UNDECIDED

    def begin(self) -> Decision:
        """The first decision: perhaps a probe for an answer that needs no thought."""
        probing = self.probing
        if probing is None or not probing.direct or self._place is not Place.UNDECIDED:
            return _GO_ON
        return self._ask(probing, probing.rule.direct_ids)

    def hear(self, found: ShortAnswer | None, tokens: int, seconds: float) -> Decision:
        """Decide after a probe: `found` is its result, `tokens` and `seconds` are its cost."""
        probing = self.probing
        assert probing is not None
        probing.probes, probing.tokens = probing.probes + 1, probing.tokens + tokens
        probing.seconds += seconds
        if self._place is Place.UNDECIDED:
            ids = probing.rule.direct_ids
            if not probing.answers_directly(found):
                return _GO_ON
            self.closed = True
        else:
            ids = self.budget.stop_ids
            if not probing.ends_thought(found, self.thinking_tokens):
                return _GO_ON
        return self._put_in(ids, "sure")

    def end(self, reason: FinishReason) -> None:
        """Make the next `take` end the turn with `reason`."""
        self._ended = reason

    def take(self, token: int) -> Decision:
        """Count a generated token and decide how to go on."""
        self.used += 1
        self._recent.append(token)
        if token in self.markers.eos:
            return self._finish("stop")
        self._count(token)
        if self.guide is not None:
            self.guide.take(token, self._place is Place.THOUGHT)
            if self.guide.ended:
                return self._finish("stop")
        if self._ended is not None:
            return self._finish(self._ended)
        if self.control.stopped:
            return self._finish("interrupted")
        if self.used >= self.max_tokens:
            return self._finish("length")
        return self._cut_or_go_on()

    def _forced(self) -> Decision:
        """Inject the tokens that the grammar forces, if room for one more token remains."""
        ids = () if self.guide is None else self.guide.forced(self.max_tokens - self.used - 1)
        for token in ids:
            self.used += 1
            self._recent.append(token)
            self._count(token)
            assert self.guide is not None
            self.guide.take(token, False)
        return Inject(ids, generated=True) if ids else _GO_ON

    def _finish(self, reason: FinishReason) -> End:
        self.finish_reason = reason
        self.answer_tokens += len(self._pending)  # white space that no thought followed
        self._pending.clear()
        return End(reason)

    def _count(self, token: int) -> None:
        if self._place is Place.CALL:
            self._count_in_call(token)
        elif self._opens(token):
            self._enter_thought(1)
        elif self._closes(token):
            self._close()
        elif token == self.markers.tool:
            self._call, self._call_in_thought = [], self._place is Place.THOUGHT
            self._settle_pending()
            self._place = Place.CALL
            self.answer_tokens += 1
        elif self._place is Place.THOUGHT:
            self.thinking_tokens += 1
        elif self._place is Place.UNDECIDED:
            self._pending.append(token)
            if not self._may_open():
                self._settle_pending()
        else:
            self.answer_tokens += 1
            self._spoken = self._spoken or not self._blank([token])

    @property
    def _answered(self) -> bool:
        """After a closed thought and some answer, ``<think>`` and ``</think>`` are text."""
        return self.closed and self._spoken

    def _opens(self, token: int) -> bool:
        return not self._answered and self._is_marker(token, self.markers.open, OPENER)

    def _closes(self, token: int) -> bool:
        return not self._answered and self._is_marker(token, self.markers.close, CLOSER)

    def _is_marker(self, token: int, marker: int | None, spelling: bytes) -> bool:
        if marker is not None or self.markers.bytes_of is None:
            return token == marker
        if spelling == OPENER or self.markers.open is not None:  # read each token once
            self._spelled = (self._spelled + self.markers.bytes_of(token))[-2 * len(CLOSER) :]
        if spelling not in self._spelled:
            return False
        self._spelled = b""
        return True

    def _enter_thought(self, tokens: int) -> None:
        self.thinking_tokens += tokens + len(self._pending)
        self._pending.clear()
        self._place, self.closed = Place.THOUGHT, False

    def _close(self) -> None:
        self.closed = self.closed or self._place is Place.THOUGHT
        self._settle_pending()

    def _settle_pending(self) -> None:
        """Count the tokens that waited for an opening marker as the answer's beginning."""
        self.answer_tokens += len(self._pending)
        self._spoken = self._spoken or not self._blank(self._pending)
        self._pending.clear()
        self._place = Place.ANSWER

    def _may_open(self) -> bool:
        """Whether an opening marker may still follow the pending tokens."""
        said = self._bytes(self._pending).strip()
        spelled = self.markers.open is None and OPENER.startswith(said)
        return self._blank(self._pending) or (self.markers.bytes_of is not None and spelled)

    def _blank(self, tokens: list[int]) -> bool:
        known = self.markers.bytes_of is not None
        return not tokens or (known and not self._bytes(tokens).strip())

    def _bytes(self, tokens: list[int]) -> bytes:
        bytes_of = self.markers.bytes_of
        return b"" if bytes_of is None else b"".join(map(bytes_of, tokens))

    def _count_in_call(self, token: int) -> None:
        """Count a token of a call, which ends the thought around it unless it proves to be none."""
        if self._call_in_thought and token == self.markers.close:
            self._abandon_call()
            self._close()
            return
        self.answer_tokens += 1
        if token == self.markers.tool_close:
            if self._call_in_thought and not self.markers.is_call(self._bytes(self._call)):
                self._abandon_call()
            else:
                self._place = Place.ANSWER
                self.closed = self.closed or self._call_in_thought
        else:
            self._call.append(token)
            if self._call_in_thought and not self._may_call():
                self._abandon_call()

    def _may_call(self) -> bool:
        said = self._bytes(self._call[:8]).strip()
        return not said or said.startswith(_CALL_BEGINS)

    def _abandon_call(self) -> None:
        """The thought only mentioned a call: count its tokens as thinking, and resume it."""
        tokens = len(self._call) + 1
        self.answer_tokens -= tokens
        self.thinking_tokens += tokens
        self._place = Place.THOUGHT

    def _cut_or_go_on(self) -> Decision:
        cut = self._wanted_cut()
        if not cut:
            return self._probe() or self._forced()
        ids = self.budget.stop_ids
        if self.cut or (cut == "budget" and self.budget.limit == 0):
            ids = self.budget.close_ids or ids
        if self._waits_for_character(len(ids)):
            return _GO_ON
        if self.used + len(ids) >= self.max_tokens:  # no answer would fit after the stop text
            return self._finish("length")
        if cut == "user":
            self.control.answers()
        return self._put_in(ids, cut)

    def _put_in(self, ids: tuple[int, ...], cut: ThinkingCut) -> Inject:
        """End the thought by injecting `ids`; cut: who or what ended it."""
        self.used += len(ids)
        self.cut = self.cut or cut
        self._waited = 0
        if self.guide is not None:
            self.guide.cut()
        self._close()
        return Inject(ids, forbidden=self.markers.open, probed=cut == "sure")

    def _probe(self) -> Ask | None:
        """A probe, if the schedule wants one here and an answer still fits."""
        probing, ids = self.probing, self.budget.stop_ids
        if probing is None or self._place is not Place.THOUGHT or self.cut:
            return None
        probing.read(self._bytes([self._recent[-1]]))
        room = self.used + len(ids) < self.max_tokens
        return self._ask(probing, ids) if room and probing.due(self.thinking_tokens) else None

    def _ask(self, probing: ProbeSchedule, ids: tuple[int, ...]) -> Ask:
        return Ask(ids, probing.rule.slot_ids, self.markers.tool)

    def _wanted_cut(self) -> ThinkingCut:
        """Who wants the thought cut now: ``budget``, ``user``, or an empty string."""
        if self._place is not Place.THOUGHT:
            self.control.answers()  # no thought to end
            return ""
        limit = self.budget.limit
        if limit is not None and self.thinking_tokens >= limit:
            return "budget"
        return "user" if self.control.wish == "answer" else ""

    def _waits_for_character(self, injected: int) -> bool:
        """Whether the cut waits, at most `PATIENCE` tokens, for the rest of a character."""
        room = self.used + 1 + injected < self.max_tokens
        if not room or self._waited >= PATIENCE or self.markers.bytes_of is None:
            return False
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        decoder.decode(self._bytes(list(self._recent)))
        unfinished = bool(decoder.getstate()[0])
        self._waited += unfinished
        return unfinished

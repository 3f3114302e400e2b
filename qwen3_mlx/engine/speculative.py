"""Decodes several tokens per step: one pass checks drafts, and the correct ones are kept.

A draft is correct if it equals the token that the target draws in its place, with the random key of
that place. So a turn's text is the same as without drafts; only its speed differs.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import mlx.core as mx

from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.engine.draft import Check, Drafter, FusedCheck
from qwen3_mlx.engine.guide import Guide
from qwen3_mlx.engine.payoff import SIZES, Payoff
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Logprobs, Sampler, SamplerState, logprobs
from qwen3_mlx.errors import OutOfMemoryError
from qwen3_mlx.metal import attend
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.cache.tailed import TailedCache
from qwen3_mlx.nn.transformer import Qwen3Network

T = TypeVar("T")

Learn = Callable[[int, float], object]
"""Receives the number of correct drafts of a pass, and the seconds of draws after it."""

DRAFTS_WORTH = 0.25
"""The estimated share of a step's time lost by its having no drafts, before any were tried."""


@dataclass(frozen=True, slots=True)
class Speculating:
    """The drafter, the check and the payoff: what a turn needs for drafts."""

    drafter: Drafter
    check: Check
    payoff: Payoff
    clock: Callable[[], float] = time.perf_counter

    def ready(self, rows: int, layers: list[KVCache]) -> bool:
        """Whether checking up to `rows` rows needs no compiling."""
        check = self.check
        if not isinstance(check, FusedCheck):
            return True
        return all(check.rows.ready([layers], [count]) for count in (rows, 2))

    def lost(self, seconds: float) -> None:
        """Note the seconds of a step without drafts whose check isn't compiled yet."""
        if isinstance(self.check, FusedCheck):
            self.check.rows.ahead.lost(DRAFTS_WORTH * seconds)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The target's draw after a row of a pass: ``logits [1, V]`` and a token ``[1]``."""

    logits: mx.array
    token: mx.array
    logprobs: Logprobs | None
    sampler: SamplerState


@dataclass(frozen=True, slots=True)
class _Checked:
    """A correct draft, and the target's draw after it."""

    token: int
    logprobs: Logprobs | None
    behind: _Drawn


class SpeculativeDecoder(Decoder):
    """A `Decoder` whose `step` may obtain several tokens at once, and returns them one by one.

    Between two steps everything except the layers' rows after ``cache.tokens`` is as in a plain
    decoder, so a cut, a stop or an end may follow any of them.
    """

    def __init__(
        self,
        network: Qwen3Network,
        cache: PromptCache,
        sampler: Sampler,
        logits: mx.array,
        top_logprobs: int | None,
        speculating: Speculating,
        room: Callable[[], int],
        guide: Guide | None = None,
    ) -> None:
        """room: returns how many more tokens the turn may have."""
        super().__init__(network, cache, sampler, logits, top_logprobs, guide)
        self.speculating, self._room = speculating, room
        self.drafted = self.accepted = 0
        """Drafts of the last pass, and the number of correct ones."""
        self.waited = 0.0
        """Seconds of its last pass that other code has waited for since."""
        self._drafts: mx.array | None = None
        self._rows = mx.zeros((0,), mx.uint32)
        """The drawn token and the drafts behind it, while there are drafts."""
        self._drawn: list[_Drawn] = []
        self._tokens = mx.zeros((0,), mx.uint32)
        """The draws of the last pass behind its rows, ``[R]``."""
        self._checked: deque[_Checked] = deque()
        speculating.drafter.begin()
        speculating.payoff.begin_turn()

    @property
    def ready(self) -> bool:
        """Whether a checked draft is left, so that the next `step` computes nothing."""
        return bool(self._checked)

    def step(self) -> int:
        """The next token: a checked draft, or the first one of a new pass."""
        if self._checked:
            return self._hand_out()
        payoff, clock = self.speculating.payoff, self.speculating.clock
        wanted = most = self.most(payoff.drafts)
        if wanted and not self.speculating.ready(1 + wanted, self.cache.layers):
            most = 0
        if payoff.begins and most:
            self.catch_up()
        begin, self.waited = clock() - self.waited, 0.0
        self.draft(most)
        token, drafted = self._pass(), self.drafted
        seconds = clock() - begin
        if most:
            self.charge(lambda right, more: payoff.round(seconds + more, drafted, right))
        else:
            payoff.plain(seconds)
        if wanted > most:
            self.speculating.lost(seconds)
        return token

    def charge(self, learn: Learn) -> None:
        """Call `learn` with the number of correct drafts of the last pass."""
        learn(self.accepted, 0.0)

    def settle(self) -> None:
        """As `Decoder.settle`: drops the checked drafts, which must then be computed again."""
        if self._checked or self._drafts is not None:
            self._checked.clear()
            self._drafts = None
            self.cache.drop_uncommitted()

    def close(self) -> None:
        """As `Decoder.close`; settles the drafter."""
        self._guarded(self.speculating.drafter.settle)

    def inject(self, tokens: Sequence[int]) -> None:
        """As `Decoder.inject`; settles first."""
        self.settle()
        super().inject(tokens)

    def most(self, wanted: int) -> int:
        """Drafts, at most `wanted`, that fit into the turn, the context, and an open tail."""
        if not wanted:
            return 0
        first = self.cache.layers[0]
        room = min(wanted, self._room() - 1, self.network.context - first.offset - 1)
        if isinstance(first, TailedCache):  # a tail that a plain step wouldn't close stays open
            room = min(room, (attend.TAIL - first.recent or attend.TAIL) - 1)
        return max((size for size in SIZES if size <= room), default=0)

    def catch_up(self, most: int | None = None) -> bool:
        """Let the drafter read at most `most` new tokens; False if some are left."""
        done = self._guarded(lambda: self.speculating.drafter.follow(self.cache.tokens, most))
        return bool(done)

    def draft(self, most: int) -> int:
        """Request up to `most` drafts for the next pass; returns how many it will check."""
        self.drafted = self.accepted = 0
        self._drafts = self._proposed(most) if most else None
        if self._drafts is not None:
            self.drafted = self._drafts.size
            self._rows = mx.concatenate([self.drawn, self._drafts.astype(self.drawn.dtype)])
        return self.drafted

    @property
    def rows(self) -> mx.array:
        """As `Decoder.rows`: the drafts follow the drawn token."""
        return self.drawn if self._drafts is None else self._rows

    def follow(self, logits: mx.array) -> None:
        """As `Decoder.follow`; after drafts, the next tokens are drawn at once."""
        if self._drafts is None:
            super().follow(logits)
            return
        rows, top = self.rows, self.top_logprobs
        self._tokens, states = self.sampler.draw_rows(rows, logits)
        split = (mx.split(drawn, len(rows)) for drawn in (logits, self._tokens))
        self._drawn = []
        for row, token, state in zip(*split, states, strict=True):
            known = None if top is None else logprobs(row, token, top)
            self._drawn.append(_Drawn(row, token, known, state))
        each = [(one.logits, one.token, *(one.logprobs or ())) for one in self._drawn]
        mx.async_eval(self._tokens, each)

    def keep(self, tokens: list[int]) -> int:
        """As `Decoder.keep`, for the correct drafts."""
        if self._drafts is None:
            return super().keep(tokens)
        drawn: list[int] = self._tokens.tolist()  # type: ignore[assignment]  # nested, to mypy
        right = 0
        while right < len(tokens) - 1 and tokens[right + 1] == drawn[right]:
            right += 1
        known = self._next_logprobs
        for token, one in zip(tokens[: right + 1], self._drawn, strict=False):
            self._checked.append(_Checked(token, known, one))
            known = one.logprobs
        self._drafts, self._drawn, self.accepted = None, [], right
        self.cache.truncate(len(self.cache.tokens) + right + 1)
        return self._hand_out()

    def _pass(self) -> int:
        if self._drafts is None:
            return super().step()
        rows = self.rows
        logits = self.speculating.check(rows[:, None], self.cache.layers)[:, -1]
        mx.async_eval(logits)  # the device begins while Python builds the draws
        self.take(logits)
        return self.keep(rows.tolist())  # type: ignore[arg-type]  # nested, to mypy

    def _draws(self) -> Sampler:
        """The sampler for the drafter, which leaves its state unchanged."""
        return self.sampler

    def _proposed(self, most: int) -> mx.array | None:
        drafter = self.speculating.drafter
        found = self._guarded(
            lambda: drafter.propose(self.cache.tokens, self.drawn, most, self._draws())
        )
        if found is None:
            return None
        try:
            self.cache.make_room(1 + found.size)
        except OutOfMemoryError:  # a plain step may still fit
            return None
        return found

    def _guarded(self, act: Callable[[], T]) -> T | None:
        """The result of `act`, a call of the drafter; if it fails, drafts stay off."""
        try:
            return act()
        except Exception as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.speculating.payoff.give_up(f"the drafts failed: {first[:160]}")
            return None

    def _hand_out(self) -> int:
        one = self._checked.popleft()
        self.logprobs, self._logits = one.logprobs, one.behind.logits
        self._next, self._next_logprobs = one.behind.token, one.behind.logprobs
        self.sampler.restore(one.behind.sampler)
        return super().keep([one.token])

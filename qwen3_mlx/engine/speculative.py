"""Several tokens a step: drafts are checked in one pass, and the right ones kept.

A draft is right if it is the very token that the target draws in its place, with the random key of
that place: so a turn says what it says without drafts, and only sooner (or later).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.engine.draft import Check, Drafter
from qwen3_mlx.engine.payoff import SIZES, Payoff
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Logprobs, Sampler, SamplerState, logprobs
from qwen3_mlx.errors import OutOfMemoryError
from qwen3_mlx.metal import attend
from qwen3_mlx.nn.cache.tailed import TailedCache
from qwen3_mlx.nn.transformer import Qwen3Network


@dataclass(frozen=True, slots=True)
class Speculating:
    """What a turn needs for drafts beside what every turn needs."""

    drafter: Drafter
    check: Check
    payoff: Payoff
    clock: Callable[[], float] = time.perf_counter


@dataclass(frozen=True, slots=True)
class _Checked:
    """A token that was right, and the decoder's state behind it."""

    token: int
    logprobs: Logprobs | None
    logits: mx.array
    following: mx.array
    following_logprobs: Logprobs | None
    sampler: SamplerState


class SpeculativeDecoder(Decoder):
    """A `Decoder` whose `step` has at times several tokens at once, and hands them out in turn.

    Between two steps everything but the layers' rows behind ``cache.tokens`` is as in a plain one,
    so a cut, a stop or an end may come after any of them.
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
    ) -> None:
        """room: says how many tokens more the turn may have."""
        super().__init__(network, cache, sampler, logits, top_logprobs)
        self.speculating, self._room = speculating, room
        self._checked: deque[_Checked] = deque()
        speculating.drafter.begin()
        speculating.payoff.begin_turn()

    def step(self) -> int:
        """As `Decoder.step`."""
        if self._checked:
            return self._hand_out()
        payoff, clock = self.speculating.payoff, self.speculating.clock
        most = self._most(payoff.drafts)
        if payoff.begins and most:
            self._guarded(lambda: self.speculating.drafter.follow(self.cache.tokens))
        begin = clock()
        drafts = self._drafts(most) if most else None
        if drafts is None:
            token = super().step()
        else:
            self._check(drafts)
            token = self._hand_out()
        if most:
            payoff.round(clock() - begin, 0 if drafts is None else drafts.size, len(self._checked))
        else:
            payoff.plain(clock() - begin)
        return token

    def settle(self) -> None:
        """As `Decoder.settle`: what was checked ahead is to be computed again."""
        if self._checked:
            self._checked.clear()
            self.cache.drop_uncommitted()

    def inject(self, tokens: Sequence[int]) -> None:
        """As `Decoder.inject`."""
        self.settle()
        super().inject(tokens)

    def _most(self, wanted: int) -> int:
        """Drafts that there is room for: in the turn, the context, and a tail that stays open."""
        if not wanted:
            return 0
        first = self.cache.layers[0]
        room = min(wanted, self._room() - 1, self.network.context - first.offset - 1)
        if isinstance(first, TailedCache):  # one that a plain step wouldn't close stays open
            room = min(room, (attend.TAIL - first.recent or attend.TAIL) - 1)
        return max((size for size in SIZES if size <= room), default=0)

    def _drafts(self, most: int) -> mx.array | None:
        drafter = self.speculating.drafter
        found = self._guarded(
            lambda: drafter.propose(self.cache.tokens, self.drawn, most, self.sampler)
        )
        if found is None:
            return None
        try:
            self.cache.make_room(1 + found.size)
        except OutOfMemoryError:  # a plain step may fit yet
            return None
        return found

    def _guarded(self, act: Callable[[], mx.array | None]) -> mx.array | None:
        """What `act` of the drafter gives; if it fails, there are no more drafts."""
        try:
            return act()
        except Exception as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.speculating.payoff.give_up(f"the drafts failed: {first[:160]}")
            return None

    def _check(self, drafts: mx.array) -> None:
        rows = mx.concatenate([self.drawn, drafts.astype(self.drawn.dtype)])
        logits = self.speculating.check(rows[:, None], self.cache.layers)[:, -1]  # [R, V]
        behind, draws, probs = [], [], [self._next_logprobs]
        for index, row in enumerate(mx.split(logits, len(rows))):
            self.sampler.observe(rows[index : index + 1])
            draws.append(self.sampler.draw(row))
            behind.append((row, self.sampler.state()))
            top = self.top_logprobs
            probs.append(None if top is None else logprobs(row, draws[-1], top))
        both = mx.stack([rows, mx.concatenate(draws).astype(rows.dtype)])
        mx.async_eval(both, *(part for one in probs if one is not None for part in one))
        lists: list[list[int]] = both.tolist()  # type: ignore[assignment]  # nested, to mypy
        tokens, drawn = lists
        right = 0
        while right < len(tokens) - 1 and tokens[right + 1] == drawn[right]:
            right += 1
        for index in range(right + 1):
            row, state = behind[index]
            known = (tokens[index], probs[index], row, draws[index], probs[index + 1], state)
            self._checked.append(_Checked(*known))
        self.cache.truncate(len(self.cache.tokens) + right + 1)

    def _hand_out(self) -> int:
        one = self._checked.popleft()
        self.logprobs, self._logits = one.logprobs, one.logits
        self._next, self._next_logprobs = one.following, one.following_logprobs
        self.sampler.restore(one.sampler)
        return self.keep(one.token)

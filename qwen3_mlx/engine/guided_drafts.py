"""Drafts for an answer that follows a grammar, which determines the allowed tokens one at a time.

So the rows of a pass are not drawn from at once: each draft waits until the guide has seen the
tokens before it. It is correct if it equals the allowed draw in its place.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401  (before mlx)

import mlx.core as mx

from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.engine.guide import Guide
from qwen3_mlx.engine.payoff import SIZES
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler, SamplerState
from qwen3_mlx.engine.sequence import TurnSequence
from qwen3_mlx.engine.speculative import Learn, Speculating, SpeculativeDecoder


class GuidedDecoder(SpeculativeDecoder):
    """A `SpeculativeDecoder` with a guide; it draws each token when a plain `Decoder` would."""

    def __init__(self, *given: Any) -> None:
        """given: the arguments of `SpeculativeDecoder`."""
        super().__init__(*given)
        self._behind = list[mx.array]()
        """Logits ``[1, V]`` that follow the drafts of a pass."""
        self._drafted = deque[tuple[int, mx.array]]()
        """Drafts that are not yet compared with a draw, each with the logits that follow it."""
        self._learn: Learn | None = None
        self._seconds = 0.0
        """Seconds spent on draws that are compared with the last pass's drafts."""

    @property
    def ready(self) -> bool:
        """Whether the next draft is correct; this draws the next token."""
        if not self._drafted:
            return False
        began = self.speculating.clock()
        right = self.drawn.item() == self._drafted[0][0]
        self._seconds += self.speculating.clock() - began
        if not right:
            self._forget()
        return right

    def step(self) -> int:
        """The next token: a correct draft, or the first one of a new pass."""
        if not self.ready:
            return super().step()
        token, logits = self._drafted.popleft()
        self.accepted += 1
        Decoder.take(self, logits)
        Decoder.keep(self, [token])
        if not self._drafted:
            self._settle_account()
        return token

    def follow(self, logits: mx.array) -> None:
        """As `Decoder.follow`; also stores the logits after the drafts."""
        first, *self._behind = mx.split(logits, len(logits))
        Decoder.follow(self, first)

    def keep(self, tokens: list[int]) -> int:
        """As `Decoder.keep`: no draft is known to be correct yet."""
        self._drafted = deque(zip(tokens[1:], self._behind, strict=True))
        self._drafts, self._behind, self._seconds = None, [], 0.0
        return Decoder.keep(self, tokens)

    def settle(self) -> None:
        """As `Decoder.settle`; drops the remaining drafts."""
        self._forget()
        super().settle()

    def charge(self, learn: Learn) -> None:
        """As `SpeculativeDecoder.charge`, once the number of correct drafts is known."""
        if self._drafted:
            self._learn = learn
        else:
            learn(self.accepted, self._seconds)

    def _forget(self) -> None:
        """Drop the drafts after a wrong one, or after a cut."""
        if self._drafted:
            self._drafted.clear()
            self.cache.drop_uncommitted()
            self._settle_account()

    def _settle_account(self) -> None:
        learn, self._learn = self._learn, None
        if learn is not None:
            learn(self.accepted, self._seconds)

    def _draws(self) -> Sampler:
        assert self.guide is not None
        return _GuidedDraws(self.sampler, self.guide.copy())

    def _proposed(self, most: int) -> mx.array | None:
        """The drafts that the grammar allows."""
        found, guide = super()._proposed(most), self.guide
        if found is None or guide is None:
            return found
        ids: list[int] = mx.concatenate([self.drawn, found]).tolist()  # type: ignore[assignment]  # nested, to mypy
        fitting = guide.fitting(ids) - 1
        if fitting >= found.size:
            return found
        size = max((size for size in SIZES if size <= fitting), default=0)
        return found[:size] if size else None


class _GuidedDraws(Sampler):
    """The draws of `sampler`, limited to what `guide` allows after the observed tokens."""

    def __init__(self, sampler: Sampler, guide: Guide) -> None:
        self._sampler, self._guide = sampler, guide

    def draw(self, logits: mx.array, allowed: mx.array | None = None) -> mx.array:
        if allowed is None and not self._guide.ended:
            allowed = self._guide.allowed()
        return self._sampler.draw(logits, allowed)

    def observe(self, tokens: mx.array) -> None:
        self._sampler.observe(tokens)
        for token in tokens.tolist():  # type: ignore[union-attr]  # nested, to mypy
            self._guide.follow(token)  # type: ignore[arg-type]

    def state(self) -> SamplerState:
        return self._sampler.state()

    def restore(self, state: SamplerState) -> None:
        self._sampler.restore(state)


def decoder_of(
    sequence: TurnSequence,
    cache: PromptCache,
    sampler: Sampler,
    logits: mx.array,
    top_logprobs: int | None,
    speculating: Speculating | None,
) -> Decoder:
    """The decoder of `sequence` after the prompt in `cache`; with drafts if `speculating`."""
    given, guide = (cache.network, cache, sampler, logits, top_logprobs), sequence.guide
    if speculating is None:
        return Decoder(*given, guide)
    room = lambda: sequence.max_tokens - sequence.used  # noqa: E731
    kind = SpeculativeDecoder if guide is None else GuidedDecoder
    return kind(*given, speculating, room, guide)

"""Drafts of an answer that follows a grammar: what may be drawn is known one token at a time.

So the rows of a pass are not drawn from at once: each draft waits until the guide knows what was
said before it, and is right if the draw that is allowed there is the very token.
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
    """As `SpeculativeDecoder`, with a guide; it draws what a plain `Decoder` draws, as late."""

    def __init__(self, *given: Any) -> None:
        """As `SpeculativeDecoder`'s."""
        super().__init__(*given)
        self._behind = list[mx.array]()
        """Logits ``[1, V]`` that follow the drafts of a pass."""
        self._drafted = deque[tuple[int, mx.array]]()
        """Drafts that were not drawn against yet, each with the logits that follow it."""
        self._learn: Learn | None = None
        self._seconds = 0.0
        """What drawing against the drafts of the last pass took."""

    @property
    def ready(self) -> bool:
        """As `Decoder.ready`; draws the next token to know."""
        if not self._drafted:
            return False
        began = self.speculating.clock()
        right = self.drawn.item() == self._drafted[0][0]
        self._seconds += self.speculating.clock() - began
        if not right:
            self._forget()
        return right

    def step(self) -> int:
        """As `Decoder.step`."""
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
        """As `Decoder.follow`."""
        first, *self._behind = mx.split(logits, len(logits))
        Decoder.follow(self, first)

    def keep(self, tokens: list[int]) -> int:
        """As `Decoder.keep`: of the drafts none is known to be right yet."""
        self._drafted = deque(zip(tokens[1:], self._behind, strict=True))
        self._drafts, self._behind, self._seconds = None, [], 0.0
        return Decoder.keep(self, tokens)

    def settle(self) -> None:
        """As `Decoder.settle`."""
        self._forget()
        super().settle()

    def charge(self, learn: Learn) -> None:
        """As `SpeculativeDecoder.charge`, once it is known how many drafts were right."""
        if self._drafted:
            self._learn = learn
        else:
            learn(self.accepted, self._seconds)

    def _forget(self) -> None:
        """Leave off the drafts behind a wrong one, or behind a cut."""
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
        """Those drafts that the grammar takes."""
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
    """The draws of `sampler`, each one of what `guide` allows behind what was observed."""

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
    """What decodes `sequence` behind the prompt in `cache`, with drafts if it is given any."""
    given, guide = (cache.network, cache, sampler, logits, top_logprobs), sequence.guide
    if speculating is None:
        return Decoder(*given, guide)
    room = lambda: sequence.max_tokens - sequence.used  # noqa: E731
    kind = SpeculativeDecoder if guide is None else GuidedDecoder
    return kind(*given, speculating, room, guide)

"""Drafts of every kind for turns that run together: right, wrong, random, looked up, none."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import qwen3_mlx.device.backend  # noqa: F401  (before mlx)

import mlx.core as mx

from qwen3_mlx.chat.draft import Drafts
from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.engine import side_by_side
from qwen3_mlx.engine.draft import Drafter
from qwen3_mlx.engine.draft_model import DraftModel
from qwen3_mlx.engine.lookup import Lookup
from qwen3_mlx.engine.payoff import SIZES
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.engine.speculative import Speculating
from tests.engine.draft_cases import Always

KINDS = ("right", "wrong", "random", "fails", "lookup", "none")


class Bent(DraftModel):
    """The target itself drafts, and is right; what it says is bent as `kind` says."""

    def __init__(self, cache: PromptCache, kind: str, draw: random.Random) -> None:
        super().__init__(cache)
        self._kind, self._draws = kind, draw

    def propose(
        self, tokens: Sequence[int], drawn: mx.array, most: int, sampler: Sampler
    ) -> mx.array | None:
        """As `DraftModel.propose`."""
        right, size = super().propose(tokens, drawn, most, sampler), self.cache.network.vocab_size
        if right is None or (self._kind == "fails" and self._draws.random() < 0.2):
            raise RuntimeError("[metal] lost")
        if self._kind == "wrong":
            return (right + 1) % size
        if self._kind == "random":
            anything = [self._draws.randrange(size) for _ in range(right.size)]
            keep = mx.array([self._draws.random() < 0.7 for _ in anything])
            return mx.where(keep, right, mx.array(anything, mx.uint32))
        return right


class AnyDrafts(Drafts):
    """Gives each turn a drafter of any kind, that is asked in every step."""

    def __init__(self, target: Runtime, draw: random.Random, kinds: Sequence[str] = KINDS) -> None:
        super().__init__(target, None)
        self._runtime, self._draws, self._kinds = target, draw, kinds
        self.payoffs: list[Always] = []

    def _new(self) -> Speculating | None:
        kind, check = self._draws.choice(self._kinds), self.way[0]
        if kind == "none" or check is None:
            return None
        cache = PromptCache(self._runtime.network)
        own = random.Random(self._draws.random())
        drafter: Drafter = Lookup() if kind == "lookup" else Bent(cache, kind, own)
        self.payoffs.append(Always(many=self._draws.choice(SIZES)))
        return Speculating(drafter, check, self.payoffs[-1])


@contextmanager
def eager(at_once: int = side_by_side.AT_ONCE) -> Iterator[None]:
    """Drafts beside others at once, whatever they take; drafters catch up so many a step."""
    with patch.object(side_by_side, "LEARNING", 0), patch.object(side_by_side, "AT_ONCE", at_once):
        yield

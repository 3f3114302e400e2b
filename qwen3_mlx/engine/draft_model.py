"""Drafts by a smaller model with the same vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler

CHUNK = 512
"""Tokens of the conversation that the draft model reads per forward pass."""


class DraftModel:
    """A smaller network that follows the conversation in a cache of its own.

    It draws with the target's sampler: the same random keys, penalties and filters. So where both
    networks agree on the distribution they agree on the token, at any temperature.
    """

    def __init__(self, cache: PromptCache) -> None:
        self.cache = cache
        self._same = 0
        """Leading tokens of the conversation that its cache is known to hold."""

    def begin(self) -> None:
        """Check the cache against the conversation from its beginning again."""
        self._same = 0

    def follow(self, tokens: Sequence[int], most: int | None = None) -> bool:
        """As `Drafter.follow`; reads nothing beyond the draft model's own context."""
        if len(tokens) >= self.cache.network.context:
            return True
        self._keep(tokens)
        with self.cache.filling():
            self._read(tokens if most is None else tokens[: self._same + most])
        return self._same == len(tokens)

    def settle(self) -> None:
        """As `Drafter.settle`."""
        self.cache.settle()

    def propose(
        self, tokens: Sequence[int], drawn: mx.array, most: int, sampler: Sampler
    ) -> mx.array | None:
        """As `Drafter.propose`; None beyond its own context. Doesn't wait for ``drawn``."""
        most = min(most, self.cache.network.context - len(tokens) - 1)
        if most < 1:
            return None
        self._keep(tokens)
        held = sampler.state()
        try:
            with self.cache.filling():
                self._read(tokens)
                return self._draw(drawn, most, sampler)
        finally:
            sampler.restore(held)

    def _draw(self, drawn: mx.array, most: int, sampler: Sampler) -> mx.array:
        forward = self.cache.step or self.cache.network
        found, last = [], drawn
        self.cache.make_room(most)
        for _ in range(most):
            logits = forward(last[None], self.cache.layers)[:, -1]
            sampler.observe(last)
            last = sampler.draw(logits)
            found.append(last)
        drafts = mx.concatenate(found)
        mx.async_eval(drafts)
        return drafts

    def _keep(self, tokens: Sequence[int]) -> None:
        """Truncate the cache to its common prefix with the conversation."""
        held, same = self.cache.tokens, min(self._same, len(self.cache.tokens), len(tokens))
        while same < min(len(held), len(tokens)) and held[same] == tokens[same]:
            same += 1
        self._same = self.cache.truncate(same)

    def _read(self, tokens: Sequence[int]) -> None:
        """Read the conversation's new tokens."""
        if new := tokens[self._same :]:
            prefill(self.cache.network, new, self.cache, CHUNK)
        self._same = len(tokens)

"""Generating one token after another, with the next step always under way."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.nn.transformer import Qwen3Network


class Decoder:
    """One sequence being generated: step t+1 is started before token t is read.

    When `step` returns token t, the cache holds it and token t+1 is being computed, drawn but
    never fed. So a cut needs no trimming: the look-ahead token is dropped, and the cache is
    exactly what it would be had generation stopped at t.
    """

    def __init__(
        self, network: Qwen3Network, cache: PromptCache, sampler: Sampler, logits: mx.array
    ) -> None:
        self.network, self.cache, self.sampler = network, cache, sampler
        self._look_ahead(logits)

    def step(self) -> int:
        """The next token."""
        token = self._next
        self.cache.make_room(1)
        forward = self.cache.step or self.network
        logits = forward(token[None], self.cache.layers)  # [1, 1, V]
        self.sampler.observe(token)
        self._look_ahead(logits[:, -1])
        value: int = token.tolist()[0]  # type: ignore[index, assignment]  # nested lists, to mypy
        self.cache.tokens.append(value)
        return value

    def inject(self, tokens: Sequence[int]) -> None:
        """Go on as if `tokens` had been generated next: one forward pass for all of them."""
        self.sampler.observe(mx.array(list(tokens), mx.uint32))
        logits = prefill(self.network, tokens, self.cache, chunk=len(tokens))
        assert logits is not None
        self._look_ahead(logits)

    def _look_ahead(self, logits: mx.array) -> None:
        self._next = self.sampler.draw(logits)  # [1]
        mx.async_eval(self._next)

"""Milliseconds of a step of 1 to 16 rows: what batching and speculation would give here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from qwen3_mlx.metal import attend, variants_rows
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.fused_rows import FusedRows
from qwen3_mlx.nn.fused_step import FusedStep
from qwen3_mlx.nn.transformer import Qwen3Network

ROWS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Rows that a table has."""

Forward = Callable[[mx.array, Sequence[Sequence[KVCache]], Sequence[int]], mx.array]
"""Tokens ``[R, 1]``, the caches of each sequence, its rows, to logits ``[R, 1, V]``."""


@dataclass(frozen=True, slots=True)
class Steps:
    """A network's steps of rows, in fused launches where they run, or in MLX's operations."""

    network: Qwen3Network
    one: FusedStep | None
    few: FusedRows | None

    @classmethod
    def of(cls, network: Qwen3Network, fused: bool = True) -> Steps:
        """Those of `network`; without `fused` in MLX's operations alone."""
        if not fused:
            return cls(network, None, None)
        return cls(network, FusedStep.if_available(network), FusedRows.if_available(network))

    @property
    def way(self) -> str:
        """How a step of several rows runs: ``fused``, ``plain``, or ``in turn``, a row a step."""
        if self.few is not None and not self.few.fault:
            return "fused"
        return "plain" if self.one is None else "in turn"

    def compile_ahead(self) -> float:
        """Compile what steps of rows need; returns how many seconds that took."""
        began, few = time.perf_counter(), self.few
        if few is None:
            return 0.0
        most = attend.most_sequences(bool(few.cache_format.bits))
        few.ahead.steps = [new for new in variants_rows.ROWS if len(new) <= most]
        while few.ahead.compile_next():
            pass
        return time.perf_counter() - began

    def cache(self, context: int) -> list[KVCache]:
        """Of one sequence of `context` tokens; time does not depend on what is in it."""
        attention, dtype = self.network.layers[0].self_attn, self.network.model.norm.weight.dtype
        layers = self.one.make_cache() if self.one else self.network.make_cache()
        size = (1, attention.kv_heads, context, attention.head_dim)
        blank = mx.random.normal(size).astype(dtype)
        for one in layers:
            one.append(blank, blank)
        mx.eval([one.state for one in layers])
        return layers

    def forward(
        self, tokens: mx.array, caches: Sequence[list[KVCache]], new: Sequence[int]
    ) -> mx.array:
        """As `Forward`."""
        if len(tokens) == 1:
            return (self.one or self.network)(tokens, caches[0])
        if self.few is not None:
            return self.few.rows(tokens, caches, new)
        if self.one is not None and max(new) == 1:
            parts = zip(mx.split(tokens, len(tokens)), caches, strict=True)
            return mx.concatenate([self.one(part, cache) for part, cache in parts])
        if max(new) == 1:
            return self.network.together(tokens, caches)
        return self.network.successive(tokens, caches[0])


def seconds(steps: Steps, context: int, sequences: int, new: int, count: int) -> float:
    """Seconds of a step, of `count` greedy ones with the next always under way.

    Each of the sequences has `new` rows, as many of which are forgotten as a check of drafts that
    fails forgets: all but the first.
    """
    caches = [steps.cache(context) for _ in range(sequences)]
    each = [new] * sequences
    tokens = mx.arange(sequences * new, dtype=mx.uint32)[:, None]

    def run(times: int) -> None:
        nonlocal tokens
        for _ in range(times):
            logits = steps.forward(tokens, caches, each)
            following = mx.argmax(logits[:, -1], axis=-1)[:, None]
            mx.async_eval(following)
            mx.eval(tokens)
            tokens = following
            for cache in caches if new > 1 else ():
                for layer in cache:
                    layer.trim(new - 1)
        mx.eval(tokens)

    run(3)
    begin = time.perf_counter()
    run(count)
    return (time.perf_counter() - begin) / count

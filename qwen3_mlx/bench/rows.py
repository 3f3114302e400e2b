"""Times steps of 1 to 16 rows, which show the gains of batching and speculation."""

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
"""The measured numbers of rows."""

Forward = Callable[[mx.array, Sequence[Sequence[KVCache]], Sequence[int]], mx.array]
"""(tokens ``[R, 1]``, each sequence's caches, its rows) -> logits ``[R, 1, V]``."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Runs a network's steps, by fused kernels where available, else by MLX's operations."""

    network: Qwen3Network
    one: FusedStep | None
    fused_rows: FusedRows | None

    @classmethod
    def of(cls, network: Qwen3Network, fused: bool = True) -> Steps:
        """The steps of `network`; without `fused` by MLX's operations only."""
        if not fused:
            return cls(network, None, None)
        return cls(network, FusedStep.if_available(network), FusedRows.if_available(network))

    @property
    def way(self) -> str:
        """How several rows run: ``fused``, ``plain``, or ``in turn`` (one row per step)."""
        if self.fused_rows is not None and not self.fused_rows.fault:
            return "fused"
        return "plain" if self.one is None else "in turn"

    def compile_ahead(self) -> float:
        """Compile the kernels of all steps; returns the seconds that it took."""
        began, rows = time.perf_counter(), self.fused_rows
        if rows is None:
            return 0.0
        most = attend.most_sequences(bool(rows.cache_format.bits))
        rows.ahead.steps = [new for new in variants_rows.ROWS if len(new) <= most]
        while rows.ahead.compile_next():
            pass
        return time.perf_counter() - began

    def cache(self, context: int) -> list[KVCache]:
        """The cache of a sequence of `context` random tokens, whose content doesn't affect time."""
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
        """One step; see `Forward` for shapes."""
        if len(tokens) == 1:
            return (self.one or self.network)(tokens, caches[0])
        if self.fused_rows is not None:
            return self.fused_rows.rows(tokens, caches, new)
        if self.one is not None and max(new) == 1:
            parts = zip(mx.split(tokens, len(tokens)), caches, strict=True)
            return mx.concatenate([self.one(part, cache) for part, cache in parts])
        if max(new) == 1:
            return self.network.together(tokens, caches)
        return self.network.successive(tokens, caches[0])


def seconds(steps: Steps, context: int, sequences: int, new: int, count: int) -> float:
    """Mean seconds of `count` greedy steps, each started before the last one is read.

    Each sequence has `new` rows; all but the first are trimmed after a step, as after a failed
    check of drafts.
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

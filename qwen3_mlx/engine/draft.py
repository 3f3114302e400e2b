"""The interface of drafters, which guess next tokens, and of the passes that check them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.fused_rows import FusedRows, choose_operations
from qwen3_mlx.nn.fused_step import FusedStep
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import CacheFormat

Check = Callable[[mx.array, list[KVCache]], mx.array]
"""Computes a sequence's next rows, as `Qwen3Network.successive` does."""


class Drafter(Protocol):
    """Guesses the next tokens of one conversation; guesses affect only the speed, not the text."""

    def begin(self) -> None:
        """A turn begins: the conversation may have been cut anywhere."""

    def follow(self, tokens: Sequence[int], most: int | None = None) -> bool:
        """Read the new part of ``tokens``, all that the cache holds; False if some is left.

        most: tokens that a network may read in this call; None: all.
        """

    def settle(self) -> None:
        """Evaluate pending arrays, so that another thread can continue from here."""

    def propose(
        self, tokens: Sequence[int], drawn: mx.array, most: int, sampler: Sampler
    ) -> mx.array | None:
        """Up to `most` tokens ``[K]`` that may follow `tokens` and ``drawn [1]``, or None.

        sampler: in its state before ``drawn`` is observed; it must be left in that state.
        """


@dataclass(frozen=True, slots=True)
class FusedCheck:
    """A `Check` by fused steps of rows."""

    rows: FusedRows

    def __call__(self, tokens: mx.array, layers: list[KVCache]) -> mx.array:
        """As `Qwen3Network.successive`."""
        return self.rows.successive(tokens, layers)


def way_to_check(network: Qwen3Network, cache_format: CacheFormat) -> tuple[Check | None, str]:
    """The pass that checks several successive rows of `network`, or None and the reason."""
    if network.model.lead is not None:
        return None, "several machines share the network"
    rows = FusedRows.if_available(network, cache_format)
    if rows is not None:
        return FusedCheck(rows), ""
    if FusedStep.if_available(network, cache_format) is not None:
        reason = choose_operations(network, cache_format)[1]
        return None, f"one-token steps are fused here and those of several rows aren't: {reason}"
    return network.successive, ""

"""Who guesses the next tokens, for a network that checks several in one pass."""

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
"""As `Qwen3Network.successive`."""


class Drafter(Protocol):
    """Guesses the tokens of one conversation; right or wrong, they change nothing but the pace."""

    def begin(self) -> None:
        """A turn begins: the conversation may have been cut anywhere."""

    def follow(self, tokens: Sequence[int], most: int | None = None) -> bool:
        """Read of ``tokens``, all that the cache holds, what is new; False if more is left.

        most: tokens that a network may read at once; None: all.
        """

    def settle(self) -> None:
        """Compute what is under way, so that another thread can go on from here."""

    def propose(
        self, tokens: Sequence[int], drawn: mx.array, most: int, sampler: Sampler
    ) -> mx.array | None:
        """Up to `most` tokens ``[K]`` that may follow `tokens` and ``drawn [1]``, or None.

        sampler: stands before ``drawn`` is observed, and is to be left as it is.
        """


@dataclass(frozen=True, slots=True)
class FusedCheck:
    """A `Check` in fused steps of rows."""

    rows: FusedRows

    def __call__(self, tokens: mx.array, layers: list[KVCache]) -> mx.array:
        """As `Qwen3Network.successive`."""
        return self.rows.successive(tokens, layers)


def way_to_check(network: Qwen3Network, cache_format: CacheFormat) -> tuple[Check | None, str]:
    """What computes several successive rows of `network` here, or None and why nothing should."""
    if network.model.lead is not None:
        return None, "several machines share the network"
    rows = FusedRows.if_available(network, cache_format)
    if rows is not None:
        return FusedCheck(rows), ""
    if FusedStep.if_available(network, cache_format) is not None:
        reason = choose_operations(network, cache_format)[1]
        return None, f"one-token steps are fused here and those of several rows aren't: {reason}"
    return network.successive, ""

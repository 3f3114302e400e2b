"""One network over several machines: the sums that make shares whole.

Which part of which tensor a machine holds is `qwen3_mlx.config.share`. The modules are built with a
machine's own sizes and know nothing of the others; a `Block` sums what its two halves give.
MLX carries it: JACCL over Thunderbolt, NCCL, or a ring over TCP. Whole layers a machine are
`qwen3_mlx.nn.pipeline`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import qwen3_mlx.device.backend  # noqa: F401  (first: it loads a BLAS before MLX)

import mlx.core as mx

from qwen3_mlx.config.share import Share

Sum = Callable[[mx.array], mx.array]
T = TypeVar("T")


class Lead(Protocol):
    """Who tells the other machines of a network what this one is about to compute."""

    def forward(self, compute: Callable[[mx.array], T], tokens: mx.array, cache: Any) -> T:
        """`compute` of ``tokens [B, L]``, which all are given, begun before it returns."""

    def mark(self, layers: Any) -> None:
        """Have all mark the cache of these layers."""

    def copy(self, source: Any, target: Any, count: int) -> None:
        """Have all begin the cache of `target` with the first `count` tokens of `source`."""

    def await_loss(self, error: Exception) -> None:
        """Wait until a lost machine ends all, if that is what made a pass fail with `error`."""


@dataclass(frozen=True, slots=True)
class Sums:
    """What makes the shares of a block's two halves whole; None: they are whole already."""

    attention: Sum | None = None
    feed_forward: Sum | None = None

    def whole(self) -> bool:
        """Whether nobody else is needed."""
        return self.attention is None and self.feed_forward is None


ALONE = Sums()


def sums_of(share: Share, group: mx.distributed.Group | None = None) -> Sums:
    """The sums of a block over `group`, by default all machines."""
    if share.size == 1 or share.pipeline:
        return ALONE
    over: Sum = partial(mx.distributed.all_sum, group=group)
    return Sums(over if share.attention else None, over)

"""One network shared by several machines: the sums that complete their partial results.

`qwen3_mlx.config.share` decides which part of which tensor a machine holds. The modules are built
with one machine's sizes and know nothing of the others; a `Block` sums the outputs of its two
halves. MLX transports the data: JACCL over Thunderbolt, NCCL, or a ring over TCP.
`qwen3_mlx.nn.pipeline` handles machines that hold whole layers.
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
    """Tells the other machines of a shared network what this one is about to compute."""

    def forward(self, compute: Callable[[mx.array], T], tokens: mx.array, cache: Any) -> T:
        """Send ``tokens [B, L]`` to all machines, and return `compute` of them, already started."""

    def mark(self, layers: Any) -> None:
        """Mark the cache of these layers on all machines."""

    def copy(self, source: Any, target: Any, count: int) -> None:
        """Copy the first `count` tokens of the cache `source` to `target` on all machines."""

    def await_loss(self, error: Exception) -> None:
        """If a lost machine caused `error`, wait until that ends all processes."""


@dataclass(frozen=True, slots=True)
class Sums:
    """The sums that complete a block's two halves; None for a half that is already complete."""

    attention: Sum | None = None
    feed_forward: Sum | None = None

    def whole(self) -> bool:
        """Whether the block needs no other machine."""
        return self.attention is None and self.feed_forward is None


ALONE = Sums()


def sums_of(share: Share, group: mx.distributed.Group | None = None) -> Sums:
    """A block's sums over `group`, by default all machines."""
    if share.size == 1 or share.pipeline:
        return ALONE
    over: Sum = partial(mx.distributed.all_sum, group=group)
    return Sums(over if share.attention else None, over)

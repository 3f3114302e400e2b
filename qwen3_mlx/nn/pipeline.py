"""One machine's stage of a pipeline: a hidden state comes from the machine before, and goes on.

The first machine embeds the tokens, and what the last one hands on comes back to it for norm and
head; so tokens stay with the first, and each pass crosses every link once. MLX carries it (ring,
JACCL); NCCL has no send.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import qwen3_mlx.device.backend  # noqa: F401  (first: it loads a BLAS before MLX)

import mlx.core as mx


@dataclass(frozen=True, slots=True)
class Stage:
    """Machine `rank` of the `size` machines of a pipeline."""

    rank: int
    size: int

    def take(self, shape: Sequence[int], dtype: mx.Dtype) -> mx.array:
        """What the machine before hands on."""
        return _awaited(mx.distributed.recv(shape, dtype, self.rank - 1))

    def hand_on(self, x: mx.array) -> mx.array:
        """Hand ``x [B, L, C]`` to the next machine; on the first, what comes back from the last."""
        sent = mx.distributed.send(x, (self.rank + 1) % self.size)
        mx.async_eval(sent)  # now: whoever drops the result would leave the others waiting, and
        if self.rank:  # behind a receive on the same stream it would never begin
            return sent
        back = mx.distributed.recv(x.shape, x.dtype, self.size - 1)
        mx.async_eval(back)
        return _awaited(back)


def _awaited(x: mx.array) -> mx.array:
    """Wait for a prompt's ``x [B, L, C]`` here: a GPU ends a command that waits for seconds."""
    if x.shape[1] > 1:
        mx.eval(x)
    return x

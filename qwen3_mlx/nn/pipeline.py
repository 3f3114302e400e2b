"""One stage of a pipeline: receives hidden states from the previous machine and sends them on.

The first machine embeds the tokens; the last machine returns its output to the first, which applies
norm and head. So tokens stay on the first machine, and each pass crosses every link once. MLX
transports the data (ring, JACCL); NCCL has no send.
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
        """The hidden state that the previous machine sends."""
        return _awaited(mx.distributed.recv(shape, dtype, self.rank - 1))

    def hand_on(self, x: mx.array) -> mx.array:
        """Send ``x [B, L, C]`` to the next machine; the first returns what the last sends back."""
        sent = mx.distributed.send(x, (self.rank + 1) % self.size)
        mx.async_eval(sent)  # now: a caller that drops the result would leave the others waiting,
        if self.rank:  # and after a receive on the same stream it would never begin
            return sent
        back = mx.distributed.recv(x.shape, x.dtype, self.size - 1)
        mx.async_eval(back)
        return _awaited(back)


def _awaited(x: mx.array) -> mx.array:
    """Evaluate ``x [B, L, C]`` if L > 1: a GPU aborts a command that waits for seconds."""
    if x.shape[1] > 1:
        mx.eval(x)
    return x

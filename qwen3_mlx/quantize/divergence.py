"""The KL divergence of two next-token distributions, from blocks of the vocabulary's logits.

With z the source's logits, w the result's, and p = softmax(z):

    KL = sum p (log p - log q) = E_p[z - w] - logsumexp(z) + logsumexp(w)

so one pass over blocks of the vocabulary suffices, and the logits are never in memory as a whole.
"""

from __future__ import annotations

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx


class Divergence:
    """Sums over the vocabulary for T positions; `add` all blocks before reading results."""

    def __init__(self, targets: mx.array) -> None:
        """``targets [T]``: the token that follows each position."""
        count = targets.shape[0]
        self.targets, self.seen = targets, 0
        self.source, self.result = _Side(count), _Side(count)
        self.gap = mx.zeros((count,))  # sum of exp(z - source.peak) (z - w)

    def add(self, z: mx.array, w: mx.array) -> None:
        """The next block of logits, float32 ``[T, n]``, of the source and of the result."""
        before = self.source.peak
        weights = self.source.add(z, self.seen, self.targets)
        self.result.add(w, self.seen, self.targets)
        scale = mx.exp(before - self.source.peak)
        self.gap = self.gap * scale + (weights * (z - w)).sum(-1)
        self.seen += z.shape[1]
        mx.eval(self.gap, *self.source.state(), *self.result.state())

    def kl(self) -> mx.array:
        """KL divergence at each position, nats ``[T]``."""
        return self.gap / self.source.total - self.source.log_sum() + self.result.log_sum()

    def agree(self) -> mx.array:
        """Whether both have the same most probable token, ``[T]``."""
        return self.source.best == self.result.best


class _Side:
    """One model's running sums, kept relative to the largest logit so far."""

    def __init__(self, count: int) -> None:
        self.peak = mx.full((count,), -mx.inf)
        self.total = mx.zeros((count,))
        self.best = mx.zeros((count,), dtype=mx.int32)
        self.target = mx.zeros((count,))

    def add(self, z: mx.array, seen: int, targets: mx.array) -> mx.array:
        """Add a block of logits; returns ``exp(z - peak)``."""
        highest = z.max(-1)
        self.best = mx.where(highest > self.peak, mx.argmax(z, -1) + seen, self.best)
        peak = mx.maximum(self.peak, highest)
        weights = mx.exp(z - peak[:, None])
        self.total = self.total * mx.exp(self.peak - peak) + weights.sum(-1)
        self.peak = peak
        here = (targets >= seen) & (targets < seen + z.shape[1])
        index = mx.where(here, targets - seen, 0)[:, None]
        self.target = mx.where(here, mx.take_along_axis(z, index, -1)[:, 0], self.target)
        return weights

    def state(self) -> tuple[mx.array, ...]:
        return self.peak, self.total, self.best, self.target

    def log_sum(self) -> mx.array:
        return self.peak + mx.log(self.total)

    def loss(self) -> mx.array:
        """Minus the log-probability of the targets, ``[T]``."""
        return self.log_sum() - self.target

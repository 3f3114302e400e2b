"""Many rows against packed weights: unpack the weights for the moment, then multiply plain ones.

MLX's packed products are made for few rows; with many, each device has a faster product for plain
weights, and all rows pay for unpacking once. `device.unpack_policy` decides from how many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import qwen3_mlx.device.backend  # noqa: F401  (first: it loads a BLAS before MLX)

import mlx.core as mx

from qwen3_mlx.device.unpack_policy import UnpackPolicy
from qwen3_mlx.nn.evaluate import evaluate_now

MAX_BYTES = 1 << 30
"""Unpacked weights that one product may hold; more experts than that go group by group. Not above
2 GiB: MLX 0.32's grouped product on CUDA multiplies out its offsets in 32 bits."""


class Stack(Protocol):
    """Linear layers of many experts in one tensor."""

    weight: mx.array
    packed: bool

    def __call__(self, x: mx.array, experts: mx.array, sorted_experts: bool) -> mx.array:
        """``x [N, 1, in]`` through ``experts [N]``, to ``[N, 1, out]``."""

    def unpacked(self, first: int, last: int, dtype: mx.Dtype) -> mx.array:
        """The plain weights ``[last - first, out, in]`` of experts `first` to `last`."""


def rows_per_expert(
    x: mx.array, experts: mx.array, layer: Stack, policy: UnpackPolicy
) -> list[int] | None:
    """Rows of each expert, of those in ``experts [N]``; None if the stack is to stay as it is.

    This computes `x` and `experts`: what one layer unpacked is then free before the next layer's
    turn. Inside `mx.compile` nothing can be computed, and the stack stays as it is.
    """
    count = layer.weight.shape[0]
    if experts.size < policy.rows_an_expert * count:
        return None
    if not layer.packed and not policy.one_expert_at_a_time:
        return None  # MLX's grouped product takes it as it is
    found = (experts[:, None] == mx.arange(count, dtype=experts.dtype)).sum(axis=0)
    if not evaluate_now(x, found):
        return None
    rows: list[int] = found.tolist()  # type: ignore[assignment]  # nested lists, to mypy
    return rows


def product(
    layer: Stack, x: mx.array, experts: mx.array, rows: Sequence[int], policy: UnpackPolicy
) -> mx.array:
    """``x [N, 1, in]`` through ``experts [N]``, ascending, `rows` of each; ``[N, 1, out]``."""
    parts = []
    most = 1 if policy.one_expert_at_a_time else len(rows)
    for first, last in groups(layer, x.dtype, most):
        start, stop = sum(rows[:first]), sum(rows[:last])
        if start == stop:
            continue
        weight = layer.unpacked(first, last, x.dtype).swapaxes(-1, -2)
        own = x[start:stop]
        chosen = experts[start:stop] - first if first else experts[start:stop]
        if policy.one_expert_at_a_time:
            parts.append((own.squeeze(1) @ weight[0])[:, None])
        else:
            parts.append(mx.gather_mm(own, weight, rhs_indices=chosen, sorted_indices=True))
        if last < len(rows):
            evaluate_now(parts[-1])  # one group's weights at a time
    return parts[0] if len(parts) == 1 else mx.concatenate(parts)


def groups(layer: Stack, dtype: mx.Dtype, most: int) -> Iterator[tuple[int, int]]:
    """The experts in groups of at most `most` whose unpacked weights stay below `MAX_BYTES`."""
    count = layer.weight.shape[0]
    each = layer.unpacked(0, 1, dtype).nbytes  # lazy, never computed
    size = max(1, min(most, MAX_BYTES // each))
    for first in range(0, count, size):
        yield first, min(first + size, count)

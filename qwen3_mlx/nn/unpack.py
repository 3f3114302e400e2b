"""Products of many rows with packed experts: unpack the weights, then multiply plain matrices.

MLX's packed products are made for few rows. For many rows each device has a faster product of plain
weights, and the cost of unpacking is shared by all rows. `device.unpack_policy` sets the threshold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import qwen3_mlx.device.backend  # noqa: F401  (first: it loads a BLAS before MLX)

import mlx.core as mx

from qwen3_mlx.device.unpack_policy import UnpackPolicy
from qwen3_mlx.nn.evaluate import evaluate_now

MAX_BYTES = 1 << 30
"""Bytes of unpacked weights that one product may hold; more experts are processed in groups. Up to
2 GiB: MLX 0.32's grouped product on CUDA computes its offsets in 32 bits."""


class Stack(Protocol):
    """The linear layers of many experts in one tensor."""

    weight: mx.array
    packed: bool

    def __call__(self, x: mx.array, experts: mx.array, sorted_experts: bool) -> mx.array:
        """Multiply ``x [N, 1, in]`` by the matrices of ``experts [N]``, to ``[N, 1, out]``."""

    def unpacked(self, first: int, last: int, dtype: mx.Dtype) -> mx.array:
        """The plain weights ``[last - first, out, in]`` of experts `first` to `last`, exclusive."""


def rows_per_expert(
    x: mx.array, experts: mx.array, layer: Stack, policy: UnpackPolicy
) -> list[int] | None:
    """The number of rows of each expert in ``experts [N]``; None if the stack stays packed.

    This evaluates `x` and `experts`, which frees one layer's unpacked weights before the next
    layer unpacks. `mx.compile` forbids evaluation, so the stack stays packed inside it.
    """
    count = layer.weight.shape[0]
    if experts.size < policy.rows_an_expert * count:
        return None
    if not layer.packed and not policy.one_expert_at_a_time:
        return None  # MLX's grouped product takes plain weights directly
    found = (experts[:, None] == mx.arange(count, dtype=experts.dtype)).sum(axis=0)
    if not evaluate_now(x, found):
        return None
    rows: list[int] = found.tolist()  # type: ignore[assignment]  # nested lists, to mypy
    return rows


def product(
    layer: Stack, x: mx.array, experts: mx.array, rows: Sequence[int], policy: UnpackPolicy
) -> mx.array:
    """Multiply ``x [N, 1, in]`` by ``experts [N]``, ascending; returns ``[N, 1, out]``.

    rows: the number of rows of each expert.
    """
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
            evaluate_now(parts[-1])  # limits memory to one group's weights
    return parts[0] if len(parts) == 1 else mx.concatenate(parts)


def groups(layer: Stack, dtype: mx.Dtype, most: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most `most` experts whose unpacked weights take at most `MAX_BYTES`."""
    count = layer.weight.shape[0]
    each = layer.unpacked(0, 1, dtype).nbytes  # lazy, never evaluated
    size = max(1, min(most, MAX_BYTES // each))
    for first in range(0, count, size):
        yield first, min(first + size, count)

"""Many rows against packed weights: unpack the weights for the moment, then multiply plain ones.

MLX's packed products are made for few rows; with many, each backend has a faster product for plain
weights, and unpacking is paid once for all rows. `device.unpack_policy` says which way is taken.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Protocol

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from qwen3_mlx.device.unpack_policy import ROWS, ROWS_AN_EXPERT, UNPACK_MODES, unpack_mode
from qwen3_mlx.nn.evaluate import evaluate_now

MAX_BYTES = 1 << 30
"""Unpacked weights that one product may hold; more experts than that go group by group. Not above
2 GiB: MLX 0.32's grouped product on CUDA multiplies out its offsets in 32 bits."""


class Stack(Protocol):
    """Linear layers of many experts in one tensor."""

    weight: mx.array

    def unpacked(self, first: int, last: int, dtype: mx.Dtype) -> mx.array:
        """The plain weights ``[last - first, out, in]`` of experts `first` to `last`."""


def why() -> str:
    """`way` for people to read: what it is, from how many rows, and what else could be tried."""
    name, device = unpack_mode(), backend.device()
    if name == "packed":
        forced = os.environ.get("QWEN3_MLX_PREFILL") == "packed"
        reason = "as QWEN3_MLX_PREFILL says" if forced else f"others are not measured on {device}"
        return f"{UNPACK_MODES[name]} ({reason}; QWEN3_MLX_PREFILL=grouped tries unpacking)"
    text = f"{UNPACK_MODES[name]}, from {ROWS[device]} rows, or {ROWS_AN_EXPERT[device]} an expert"
    if name == "grouped" and device == "cuda" and os.environ.get("MLX_ENABLE_TF32") == "0":
        text += "; MLX_ENABLE_TF32=0 makes MLX's grouped product slow in every dtype"
    return text


def should_unpack(rows: int) -> bool:
    """Whether a packed matrix that meets `rows` rows is unpacked first."""
    return rows >= ROWS[backend.device()] and unpack_mode() != "packed"


def rows_per_expert(x: mx.array, experts: mx.array, layer: Stack) -> list[int] | None:
    """Rows of each expert, of those in ``experts [N]``; None if the stack is to stay as it is.

    This computes `x` and `experts`: what is unpacked by one layer is then free again before the
    next layer's turn. Inside `mx.compile` nothing can be computed, and the stack stays as it is.
    """
    count, taken = layer.weight.shape[0], unpack_mode()
    if experts.size < ROWS_AN_EXPERT[backend.device()] * count or taken == "packed":
        return None
    if taken == "grouped" and "scales" not in layer:  # type: ignore[operator]  # nn.Module is a dict
        return None  # plain already
    found = (experts[:, None] == mx.arange(count, dtype=experts.dtype)).sum(axis=0)
    if not evaluate_now(x, found):
        return None
    rows: list[int] = found.tolist()  # type: ignore[assignment]  # nested lists, to mypy
    return rows


def evaluate_on_cpu(out: mx.array) -> mx.array:
    """`out`, on the CPU computed now: a layer's matrices are then never unpacked together.

    MLX allocates ahead of what it computes, there about a layer and a half; waiting costs nothing
    measurable (512 tokens through 8 layers of 0.6B: 1.57 s with, 1.64 s without).
    """
    if backend.device() == "cpu":
        evaluate_now(out)
    return out


def product(layer: Stack, x: mx.array, experts: mx.array, rows: Sequence[int]) -> mx.array:
    """``x [N, 1, in]`` through ``experts [N]``, ascending, `rows` of each; ``[N, 1, out]``."""
    parts, taken = [], unpack_mode()
    for first, last in groups(layer, x.dtype, 1 if taken == "each" else len(rows)):
        start, stop = sum(rows[:first]), sum(rows[:last])
        if start == stop:
            continue
        weight = layer.unpacked(first, last, x.dtype).swapaxes(-1, -2)
        own = x[start:stop]
        chosen = experts[start:stop] - first if first else experts[start:stop]
        if taken == "each":
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

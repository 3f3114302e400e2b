"""Many tokens through unpacked experts in three batched products, each expert with as many rows.

MLX's grouped product reads unaligned pairs of bytes on CUDA (grouped_gemm_unaligned.cu): 0.94 ms
for 16,384 rows of 30B-A3B's experts on an H100, where a batched product of twice the rows takes
0.34. So every expert gets `capacity` rows, the surplus of busy experts goes through products of its
own, and rows stay in that layout from the first matrix to the last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import mlx.core as mx

from qwen3_mlx.nn import unpacked
from qwen3_mlx.nn.settle import settle

CAPACITY = 2
"""Rows of every expert, in mean loads: more only multiplies zeros, fewer leaves more products."""

_STEP = 32


def capacity(rows: Sequence[int]) -> int:
    """The rows every expert gets where they have `rows`."""
    wanted = min(max(rows), -(-CAPACITY * sum(rows) // len(rows)))
    return -(-wanted // _STEP) * _STEP


Act = Callable[[mx.array, mx.array], mx.array]


def experts(
    stack: Any, act: Act, x: mx.array, order: mx.array, pairs: mx.array, rows: Sequence[int]
) -> mx.array:
    """``x [T, C]`` through SwiGLU networks, k of them a token; ``[T · k, C]``, token by token.

    stack: ``gate_proj``, ``up_proj``, ``down_proj``, each an `unpacked.Stack`. act: of the two
    first matrices' outputs. order: the ``T · k`` (token, expert) pairs sorted by expert; pairs:
    the experts in that order, of which expert e has ``rows[e]``.
    """
    outs, places, made = [], [], 0
    sources = order // (len(order) // len(x))
    for first, last in unpacked.groups(stack.gate_proj, x.dtype, len(rows)):
        start, stop = sum(rows[:first]), sum(rows[:last])
        if start == stop:
            continue
        layers = (stack.gate_proj, stack.up_proj, stack.down_proj)
        weights = [layer.unpacked(first, last, x.dtype).swapaxes(-1, -2) for layer in layers]
        mx.async_eval(*weights)  # unpacked while the rest is written down
        out = _group(weights, act, x, sources[start:stop], rows[first:last])
        places.append(_places(pairs[start:stop] - first, rows[first:last]) + made)
        outs.append(out)
        made += len(out)
        if last < len(rows):
            settle(out)  # one group's weights at a time
    # one gather takes the rows out of their layout and back into the tokens' order
    return _joined(outs)[_joined(places)[mx.argsort(order)]]


def _group(
    weights: Sequence[mx.array], act: Act, x: mx.array, sources: mx.array, rows: Sequence[int]
) -> mx.array:
    """Every expert's `capacity` rows, then what busy experts have beyond, expert by expert."""
    gate, up, down = weights  # [E, C, F], [E, C, F], [E, F, C]
    most, starts = capacity(rows), _starts(rows)
    slots = mx.array(starts, mx.int32)[:, None] + mx.arange(most, dtype=mx.int32)
    own = x[sources[mx.minimum(slots, len(sources) - 1)]]  # [E, most, C], any rows where none are
    outs = [(act(own @ gate, own @ up) @ down).flatten(0, 1)]
    for expert, (start, count) in enumerate(zip(starts, rows, strict=True)):
        if count > most:
            rest = x[sources[start + most : start + count]]
            outs.append(act(rest @ gate[expert], rest @ up[expert]) @ down[expert])
    return _joined(outs)


def _places(chosen: mx.array, rows: Sequence[int]) -> mx.array:
    """Where `_group` puts each row of ``chosen [N]``, ascending experts."""
    most, starts = capacity(rows), _starts(rows)
    beyond = [0, *accumulate(max(count - most, 0) for count in rows)][:-1]
    surplus = [len(rows) * most + n - start - most for n, start in zip(beyond, starts, strict=True)]
    row, chosen = mx.arange(len(chosen), dtype=mx.int32), chosen.astype(mx.int32)
    within = row - mx.array(starts, mx.int32)[chosen]
    return mx.where(
        within < most, chosen * most + within, row + mx.array(surplus, mx.int32)[chosen]
    )


def _starts(rows: Sequence[int]) -> list[int]:
    return [0, *accumulate(rows)][:-1]


def _joined(parts: list[mx.array]) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(parts)

"""Lists the kernels of a network's steps with rows; `variants` lists those for one token."""

from __future__ import annotations

from dataclasses import replace

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from qwen3_mlx.metal import attend, dispatch, layer, rotation, skinny
from qwen3_mlx.metal.launch import Launch
from qwen3_mlx.metal.variants import CAPACITIES, PLAIN, Signature, blank, recorded

New = tuple[int, ...]
"""The number of new tokens of each sequence in a step with rows."""

ROWS: tuple[New, ...] = (
    (1,) * 8,
    (1, 1),
    (1, 1, 1),
    (1, 1, 1, 1),
    (4,),
    (2,),
    (1, 2),
    (1, 3),
    (1, 1, 3),
    (1, 1, 1, 3),
    (1, 1, 1, 1, 3),
    (1,) * 16,
    (16,),
    (*(1,) * 12, 4),
)
"""Steps that together use all sources, the most frequent first."""


def variants_of_rows(network: Signature) -> list[Launch]:
    """The launches of steps with rows, one for each distinct source, on blank arrays."""
    most = attend.most_sequences(network.kv_packing != PLAIN)

    def made() -> None:
        for capacity in CAPACITIES:
            for new in ROWS:
                if len(new) <= most:
                    _rows(network, capacity, new)

    return recorded(made)


def launches_of(network: Signature, new: New, split: bool) -> list[Launch]:
    """The launches of one step with rows; split: after a past that `attend` reads in parts."""
    return recorded(lambda: _rows(network, CAPACITIES[split], new))


def _rows(network: Signature, capacity: int, new: New) -> None:
    """Launch a step of one layer, and the head if `skinny` runs."""
    n, rows, sequences = network, sum(new), len(new)
    keys, values = (
        [blank(n.kv_packing, n.dtype, 1, n.kv_heads, capacity, n.head_dim)] * sequences
        for _ in range(2)
    )
    tails = n.zeros(sequences, 2, n.kv_heads, attend.TAIL, n.head_dim)
    counts, places = (mx.zeros((size, 2), mx.int32) for size in (sequences, rows))
    most = 1 if max(new) == 1 else attend.MOST_ROWS
    past = attend.Pasts(keys, values, tails, counts, places, most)
    turns, _ = rotation.rotations(mx.zeros((n.head_dim // 2 + 1,)), counts, places)
    operations = layer.ROWS if skinny_runs(n) else ATTENTION_ALONE
    blank_layer(n).step(n.zeros(rows, 1, n.hidden), turns, past, operations)
    if n.vocabulary and skinny_runs(n):
        head = n.matrix("head", n.vocabulary, n.hidden)
        skinny.matvec(n.zeros(rows, 1, n.hidden), [head], n.zeros(n.hidden), n.eps)


ATTENTION_ALONE = replace(
    layer.STOCK,
    attend=attend.attend,
    hidden=lambda x, *_: (x, None),
    down=lambda h, *_, residual: h,
)
"""The step with rows where MLX's operations compute the matrices: only attention is ours."""


def skinny_runs(network: Signature) -> bool:
    """Whether `skinny` can compute all matrices of a layer and the head on this backend."""
    if (backend.device(), "skinny") in dispatch.STOCK:
        return False
    made = [group for group in blank_layer(network).groups() if group]
    if network.vocabulary:
        made.append([network.matrix("head", network.vocabulary, network.hidden)])
    return not any(skinny.unsupported_reason(network.dtype, group) for group in made)


def blank_layer(network: Signature) -> layer.Layer:
    """A layer of zeros in the network's sizes; its arrays are lazy."""
    n, stack = network, (network.experts,) if network.experts else ()
    width, kept = n.heads * n.head_dim, n.kv_heads * n.head_dim
    gate, up = (n.matrix("gate_up", *stack, n.feed_forward, n.hidden) for _ in range(2))
    last = n.matrix("down", *stack, n.hidden, n.feed_forward)
    return layer.Layer(
        [n.matrix("qkv", rows, n.hidden) for rows in (width, kept, kept)],
        n.matrix("out", n.hidden, width),
        (n.heads, n.kv_heads),
        (n.zeros(n.head_dim), n.zeros(n.head_dim)),
        (n.zeros(n.hidden), n.zeros(n.hidden)),
        n.eps,
        layer.Routed(gate, up, last, n.top_k, n.normalise) if n.experts else (gate, up, last),
        blank(n.router, n.dtype, n.experts, n.hidden) if n.experts else None,
    )

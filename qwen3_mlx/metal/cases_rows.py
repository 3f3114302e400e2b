"""A proof's cases with rows: several sequences, several new tokens, experts read once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import mlx.core as mx

from qwen3_mlx.metal import attend, down, gate_up, rotation, route, skinny, stock
from qwen3_mlx.metal.case import Arrays, Case
from qwen3_mlx.metal.cases_matrices import NORMED, Products, of_stock
from qwen3_mlx.metal.random_inputs import gain, of, past_of, random, rotation_table
from qwen3_mlx.metal.variants import PLAIN, Signature
from qwen3_mlx.metal.variants_rows import ROWS, New, skinny_runs

PASTS = (700, 5000)
"""Lengths of the past in tokens: one that is read in one part, and one that is split."""

FEW_AND_MANY = (2, 16)
"""Numbers of rows that need one tile of a matrix unit, and two."""


def cases_of_rows(n: Signature, stack: int) -> Iterator[Case]:
    """Every launch of a step with rows; `stack` experts stand for all."""
    most = attend.most_sequences(n.kv_packing != PLAIN)
    for tokens in PASTS:
        for new in ROWS:
            if len(new) <= most and max(new) <= attend.TAIL:
                yield _attention(n, tokens, new)
    if skinny_runs(n):
        for rows in FEW_AND_MANY:
            yield from Products(n, rows).all()
            yield from _experts(n, rows, stack) if n.experts else _dense(n, rows)


def _attention(n: Signature, tokens: int, new: New) -> Case:
    """The case of pasts whose lengths differ, and whose tails' lengths differ."""
    pasts = [
        past_of(n, max(tokens - 17 * i, 0), (5 * i) % (attend.TAIL - count + 1))
        for i, count in enumerate(new)
    ]
    places = [[index, ahead] for index, count in enumerate(new) for ahead in range(count)]
    joint = attend.Pasts(
        [past.keys for past in pasts],
        [past.values for past in pasts],
        mx.stack([past.tail for past in pasts]),
        mx.stack([past.counts for past in pasts]),
        mx.array(places, mx.int32),
        1 if max(new) == 1 else attend.MOST_ROWS,
    )
    heads, table = (n.heads, n.kv_heads), rotation_table(n)
    norms = (gain(n, n.head_dim), gain(n, n.head_dim))
    at = [int(past.counts.sum()) for past in pasts]
    turns = mx.stack([rotation.reference(table, at[index] + ahead) for index, ahead in places])
    slots = [(index, int(pasts[index].counts[1]) + ahead) for index, ahead in places]

    def ours(x: mx.array) -> Arrays:
        made, following = rotation.rotations(table, joint.counts, joint.rows)
        out, tails = attend.attend(x, heads, norms, n.eps, made, joint)
        added = mx.stack([tails[index, :, :, slot] for index, slot in slots])
        wrong = mx.abs(following - joint.counts - mx.array([[0, count] for count in new])).max()
        return [out, added + wrong]

    def by(make: Callable[..., Any], x: mx.array) -> Arrays:
        return list(attend.one_by_one(make, x, heads, norms, n.eps, turns, joint))

    x = random(n.dtype, sum(new), 1, (n.heads + 2 * n.kv_heads) * n.head_dim)
    rest = (partial(by, make) for make in (attend.reference, stock.attend))
    rows = " + ".join(f"{new.count(size)} x {size}" for size in sorted({*new}))
    return Case("attend_rows", f"{rows} behind {tokens:,} tokens", x, ours, *rest)


def _dense(n: Signature, rows: int) -> Iterator[Case]:
    gate, up = (of(n, "gate_up", n.feed_forward, n.hidden) for _ in range(2))
    norm = gain(n, n.hidden)

    def by(make: Callable[..., mx.array], x: mx.array) -> Arrays:
        return [make(x, gate, up, norm=norm, eps=n.eps)]

    def by_stock(x: mx.array) -> Arrays:
        return [stock.gate_up(x, of_stock(gate, x), of_stock(up, x), norm=norm, eps=n.eps)]

    ours, reference = (partial(by, make) for make in (skinny.gate_up, gate_up.reference))
    x = random(n.dtype, rows, 1, n.hidden)
    yield Case("skinny", f"gate and up of {rows}", x, ours, reference, by_stock, roundings=NORMED)


def _experts(n: Signature, rows: int, stack: int) -> Iterator[Case]:
    """Both of the experts' products, with experts shared by several rows."""
    near = mx.where(mx.arange(n.experts) < stack, 0.0, -30.0)
    logits = (mx.random.normal((rows, 1, n.experts)) + near).astype(n.dtype)
    gate, up = (of(n, "gate_up", stack, n.feed_forward, n.hidden) for _ in range(2))
    last, norm = of(n, "down", stack, n.hidden, n.feed_forward), gain(n, n.hidden)
    experts, weights = route.reference(logits[:, 0], n.top_k, n.normalise)
    residual = random(n.dtype, rows, 1, n.hidden)

    def hidden(x: mx.array) -> Arrays:
        return [skinny.hidden(x, logits, gate, up, n.top_k, n.normalise, norm, n.eps)[0]]

    def hidden_by(make: Callable[..., mx.array], x: mx.array) -> Arrays:
        return [make(x[:, 0], gate, up, experts, weights, norm, n.eps)]

    def summed(x: mx.array) -> Arrays:
        return [skinny.down(x, last, route.grouped(logits, n.top_k, n.normalise), residual)]

    def summed_by(make: Callable[..., mx.array], x: mx.array) -> Arrays:
        return [make(x, last, experts, residual).reshape(residual.shape)]

    rest = (partial(hidden_by, make) for make in (gate_up.reference, stock.gate_up))
    x = random(n.dtype, rows, 1, n.hidden)
    yield Case("skinny", f"experts of {rows}", x, hidden, *rest, roundings=NORMED)
    rest = (partial(summed_by, make) for make in (down.reference, stock.down))
    x = random(n.dtype, rows, n.top_k, n.feed_forward)
    yield Case("skinny", f"their sum, of {rows}", x, summed, *rest)

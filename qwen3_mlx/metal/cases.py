"""The cases of a proof: every kernel that a network uses, at its sizes, on random numbers.

A few experts stand for the whole stack (to most kernels their number is only a stride), and only
some rows of the head are compared. A test checks that the cases launch all sources of `variants`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from qwen3_mlx.metal import (
    attend,
    dispatch,
    down,
    gate_up,
    gather_matmul,
    layer,
    rotation,
    route,
    stock,
)
from qwen3_mlx.metal.case import Arrays, Case
from qwen3_mlx.metal.cases_matrices import Products
from qwen3_mlx.metal.cases_rows import cases_of_rows
from qwen3_mlx.metal.matrix import FEWEST
from qwen3_mlx.metal.random_inputs import (
    closed,
    gain,
    of,
    packed,
    past_of,
    random,
    rotation_table,
)
from qwen3_mlx.metal.variants import PROMPT, Signature

STACK = 16
"""Experts in the cases' stacks, instead of all the network's."""

PASTS = (0, 1, 63, 64, 1000, 5000)
"""Lengths of the past, in tokens, for the cases of `attend`; the last is split into parts."""

TOKENS = (1, 2, gate_up.MAX_TOKENS)
"""Tokens of the experts' cases: they include the cuts for the most and the fewest rows."""


def cases(signature: Signature) -> Iterator[Case]:
    """The cases of a network's layer and head, one after the other; their arrays are lazy."""
    n = signature
    yield from Products(n).all()
    for past in PASTS:
        yield _attention(n, past)
    if n.experts:
        yield from _choices(n)
        for tokens in TOKENS:
            yield from _experts(n, tokens)
        if (backend.device(), "gather_matmul") not in dispatch.STOCK:
            yield from _prompt(n)
    else:
        yield _dense(n)
    yield from cases_of_rows(n, _stack(n) if n.experts else 0)
    yield _layer(n)


def _attention(n: Signature, tokens: int) -> Case:
    recent = min(tokens, attend.TAIL - 1) if tokens in (63, 5000) else 0
    past, heads = past_of(n, tokens - recent, recent), (n.heads, n.kv_heads)
    norms, table = (gain(n, n.head_dim), gain(n, n.head_dim)), rotation_table(n)

    def by(make: Callable[..., tuple[mx.array, mx.array]], ours: bool, x: mx.array) -> Arrays:
        turns = rotation.rotation(table, past.counts) if ours else rotation.reference(table, tokens)
        out, tail = make(x, heads, norms, n.eps, turns, past)
        return [out, tail[:, :, : recent + 1]]

    x = random(n.dtype, 1, 1, (n.heads + 2 * n.kv_heads) * n.head_dim)
    made = ((attend.attend, True), (attend.reference, False), (stock.attend, False))
    return Case(n.attention, f"{tokens:,} tokens", x, *(partial(by, *each) for each in made))


def _dense(n: Signature) -> Case:
    gate, up = (of(n, "gate_up", n.feed_forward, n.hidden) for _ in range(2))
    norm = gain(n, n.hidden)

    def by(make: Callable[..., mx.array], x: mx.array) -> Arrays:
        return [make(x, gate, up, norm=norm, eps=n.eps)]

    x = random(n.dtype, 1, 1, n.hidden)
    made = (gate_up.gate_up, gate_up.reference, stock.gate_up)
    return Case("gate_up", "gate and up", x, *(partial(by, make) for make in made))


def _logits(n: Signature, tokens: int) -> mx.array:
    """A router's logits ``[T, E]`` that prefer the experts of the stack."""
    near = mx.where(mx.arange(n.experts) < _stack(n), 0.0, -30.0)
    return (mx.random.normal((tokens, n.experts)) + near).astype(n.dtype)


def _stack(n: Signature) -> int:
    return min(n.experts, max(STACK, n.top_k))


def _choices(n: Signature) -> Iterator[Case]:
    def by(make: Callable[..., tuple[mx.array, mx.array]], x: mx.array) -> Arrays:
        return list(make(x, n.top_k, n.normalise))[::-1]

    made = (route.route, route.reference, route.reference)  # MLX's own order of ties is not defined
    for tokens in TOKENS:
        x = _logits(n, tokens)
        yield Case("route", f"{tokens} tokens", x, *(partial(by, make) for make in made))


def _experts(n: Signature, tokens: int) -> Iterator[Case]:
    """Both launches for a few tokens; for one token also with norm and residual, as in a step."""
    count, logits = _stack(n), _logits(n, tokens)
    gate, up = (of(n, "gate_up", count, n.feed_forward, n.hidden) for _ in range(2))
    experts, weights = route.reference(logits, n.top_k, n.normalise)
    routed = layer.Routed(gate, up, up, n.top_k, n.normalise)

    def ours(norm: mx.array | None, x: mx.array) -> Arrays:
        return [layer.hidden(x, logits, routed, norm, n.eps if norm is not None else 0.0)[0]]

    def by(make: Callable[..., mx.array], norm: mx.array | None, x: mx.array) -> Arrays:
        return [make(x, gate, up, experts, weights, norm, n.eps)]

    for norm in (gain(n, n.hidden), None) if tokens == 1 else (None,):
        x, run = random(n.dtype, tokens, n.hidden), partial(ours, norm)
        rest = (partial(by, make, norm) for make in (gate_up.reference, stock.gate_up))
        yield Case("gate_up", f"{tokens} tokens{', normed' * (norm is not None)}", x, run, *rest)
    yield from _summed(n, experts)


def _summed(n: Signature, experts: mx.array) -> Iterator[Case]:
    tokens, last = len(experts), of(n, "down", _stack(n), n.hidden, n.feed_forward)

    def by(make: Callable[..., mx.array], residual: mx.array | None, x: mx.array) -> Arrays:
        return [make(x, last, experts, residual)]

    for residual in (random(n.dtype, 1, n.hidden), None) if tokens == 1 else (None,):
        x = random(n.dtype, tokens, n.top_k, n.feed_forward)
        made = (partial(by, make, residual) for make in (down.down, down.reference, stock.down))
        yield Case("down", f"{tokens} tokens{', residual' * (residual is not None)}", x, *made)


def _prompt(n: Signature) -> Iterator[Case]:
    """The case of a prompt's rows; only its first and last four tokens are compared."""
    shapes = ((n.feed_forward, n.hidden), (n.feed_forward, n.hidden), (n.hidden, n.feed_forward))
    roles = ("gate_up", "gate_up", "down")
    whole = tuple(of(n, role, n.experts, *s) for role, s in zip(roles, shapes, strict=True))
    if gather_matmul.unsupported_reason(n.dtype, whole[0], whole[1], whole[2]):
        return
    few = [stock.expert(matrix, slice(None, _stack(n))) for matrix in whole]
    experts, weights = route.reference(_logits(n, PROMPT), n.top_k, n.normalise)
    ends = mx.array([0, 1, 2, 3, PROMPT - 4, PROMPT - 3, PROMPT - 2, PROMPT - 1])

    def ours(x: mx.array) -> Arrays:
        plan = gather_matmul.plan(experts, n.experts)
        h = gather_matmul.gate_up(x, whole[0], whole[1], weights, plan)
        return [gather_matmul.down(h, whole[2], plan)[ends]]

    def true(x: mx.array) -> Arrays:
        matrices = (few[0], few[1], few[2])
        return [gather_matmul.reference(x[ends], matrices, experts[ends], weights[ends])[1]]

    def theirs(x: mx.array) -> Arrays:
        """As MLX does with many rows: it unpacks the weights to the dtype first."""
        chosen, rows = experts[ends], x[ends][:, None, :, None]
        plain = [matrix.dequantized().astype(n.dtype)[chosen] for matrix in few]
        g, u = plain[0] @ rows, plain[1] @ rows
        return [(plain[2] @ (g * mx.sigmoid(g) * u))[..., 0] * weights[ends][..., None]]

    x = random(n.dtype, PROMPT, n.hidden)
    yield Case("gather_matmul", f"{PROMPT} tokens", x, ours, true, theirs, roundings=3)


def _layer(n: Signature) -> Case:
    """A whole layer, one token after another, until after its tail was emptied into the cache.

    All experts are chosen: otherwise the rounding of a logit could choose a different one.
    """
    if n.experts:
        n = replace(n, experts=max(n.top_k, FEWEST))
    made, table, steps = _random_layer(n), rotation_table(n), attend.TAIL + 2
    compared, first = (0, attend.TAIL - 1, attend.TAIL, steps - 1), past_of(n, 190, 0)
    met: list[tuple[mx.array, mx.array, attend.Past]] = []

    def ours(x: mx.array) -> Arrays:
        past, out = first, []
        met.clear()
        for step in range(steps):
            if step and step % attend.TAIL == 0:
                past = closed(n, past)
            turns, row = rotation.rotation(table, past.counts), x[:, step : step + 1]
            y, tail = made.step(row, turns, past)
            if step in compared:
                out.append(y)
                met.append((row, turns, past))
            past = attend.Past(past.keys, past.values, tail, past.counts + mx.array([0, 1]))
        return out

    def there(operations: layer.Operations, x: mx.array) -> Arrays:
        del x  # the rows that `ours` recorded, with the pasts that its steps left
        return [made.step(*given, operations)[0] for given in met]

    rest = (partial(there, layer.REFERENCE), partial(there, layer.STOCK))
    return Case("step", "a layer", random(n.dtype, 1, steps, n.hidden), ours, *rest, roundings=3)


def _random_layer(n: Signature) -> layer.Layer:
    width, kept = n.heads * n.head_dim, n.kv_heads * n.head_dim
    stack = (n.experts,) if n.experts else ()
    gate, up = (of(n, "gate_up", *stack, n.feed_forward, n.hidden) for _ in range(2))
    last = of(n, "down", *stack, n.hidden, n.feed_forward)
    routed = layer.Routed(gate, up, last, n.top_k, n.normalise)
    return layer.Layer(
        [of(n, "qkv", rows, n.hidden) for rows in (width, kept, kept)],
        of(n, "out", n.hidden, width),
        (n.heads, n.kv_heads),
        (gain(n, n.head_dim), gain(n, n.head_dim)),
        (gain(n, n.hidden), gain(n, n.hidden)),
        n.eps,
        routed if n.experts else (gate, up, last),
        packed(n.router, n.dtype, n.experts, n.hidden) if n.experts else None,
    )

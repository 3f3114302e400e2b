"""A tiny case of every kernel, tried once a process before the kernel is trusted on this machine.

A kernel that doesn't build, or gives a wrong result, is switched off with one line saying so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache

import mlx.core as mx

from qwen3_mlx.metal import attend, down, gate_up, gather_matmul, matvec, rotation, route, tuning
from qwen3_mlx.metal.matrix import Matrix

Pairs = list[tuple[mx.array, mx.array]]
"""What a kernel gave, and its reference."""

_TOLERANCE = 1e-4  # of the squared error, in bfloat16: an order of magnitude above its rounding


@cache
def fault(name: str) -> str | None:
    """What is wrong with the kernel `name` on this machine, or None; said once on stderr."""
    try:
        pairs = CASES[name]()
        worst = max(_error(got, want) for got, want in pairs)
        found = None if worst <= _TOLERANCE else f"wrong result on this machine ({worst:.1e})"
    except Exception as error:  # whatever the compiler or the driver throws
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        found = f"does not run on this machine: {first[:120]}"
    if found:
        print(f"qwen3-mlx: kernel {name} is switched off: {found}", file=sys.stderr)  # noqa: T201
    return found


def _error(got: mx.array, want: mx.array) -> float:
    got, want = got.astype(mx.float32), want.astype(mx.float32)
    # MLX's item() may be any number to mypy; float32 gives a float
    return (mx.square(got - want).sum() / mx.square(want).sum()).item()  # type: ignore[return-value]


def _random(*shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(sum(shape))).astype(mx.bfloat16)


def _packed(*shape: int, group: int = 64, bits: int = 4) -> Matrix:
    return Matrix(*mx.quantize(_random(*shape), group, bits), bits=bits, group=group)


_EPS = 1e-6
_EXPERTS = mx.array([[2, 0], [1, 2]], mx.uint32)
_WEIGHTS = mx.array([[0.75, 0.25], [0.5, 0.5]], mx.float32)


def _matvec() -> Pairs:
    x, norm, matrix = _random(1, 1, 128), _random(128), _packed(64, 128)
    got = matvec.matvec(x, [matrix, matrix], norm, _EPS)
    return [(got, matvec.reference(x, [matrix, matrix], norm, _EPS))]


def _gate_up() -> Pairs:
    x, gate, up = _random(2, 128), _packed(3, 64, 128), _packed(3, 64, 128)
    args = (x, gate, up, _EXPERTS, _WEIGHTS)
    pairs = [(gate_up.gate_up(*args), gate_up.reference(*args))]
    if tuning.choosing():
        logits = _random(2, 3)
        h, chosen = gate_up.route_and_gate_up(x, gate, up, logits, 2, True)
        experts, weights = route.reference(logits, 2, True)
        pairs += [(h, gate_up.reference(x, gate, up, experts, weights)), (chosen, experts)]
    return pairs


def _down() -> Pairs:
    h, matrix, residual = _random(2, 2, 64), _packed(3, 128, 64), _random(2, 128)
    args = (h, matrix, _EXPERTS, residual)
    return [(down.down(*args), down.reference(*args))]


def _route() -> Pairs:
    logits = _random(2, 40)
    got, want = route.route(logits, 4, False), route.reference(logits, 4, False)
    return list(zip(got, want, strict=True))


def _attend(bits: int = 0) -> Pairs:
    qkv, norm = _random(1, 1, 6 * 32), _random(32)
    counts = mx.array([20, 3], mx.int32)
    table = mx.array([0.5**i for i in range(16)] + [1.0], mx.float32)
    turns = rotation.rotation(table, counts)
    held = _packed(1, 1, 24, 32, group=32, bits=bits) if bits else Matrix(_random(1, 1, 24, 32))
    past = attend.Past(held, held, _random(2, 1, 64, 32), counts)
    out, tail = attend.attend(qkv, (4, 1), (norm, norm), _EPS, turns, past)
    want, rows = attend.reference(qkv, (4, 1), (norm, norm), _EPS, turns, past)
    return [(turns, rotation.reference(table, 23)), (out, want), (tail[:, :, :4], rows)]


def _gather_matmul() -> Pairs:
    x, matrices = (
        _random(3, 128),
        (_packed(3, 128, 128), _packed(3, 128, 128), _packed(3, 128, 128)),
    )
    experts, weights = mx.concatenate([_EXPERTS, _EXPERTS[:1]]), mx.full((3, 2), 0.5, mx.float32)
    plan = gather_matmul.plan(experts, 3)
    h = gather_matmul.gate_up(x, *matrices[:2], weights, plan)
    _, want = gather_matmul.reference(x, matrices, experts, weights, x.dtype)
    return [(gather_matmul.down(h, matrices[2], plan), want)]


CASES: dict[str, Callable[[], Pairs]] = {
    "matvec": _matvec,
    "gate_up": _gate_up,
    "down": _down,
    "route": _route,
    "attend": _attend,
    "attend_packed": lambda: _attend(8),
    "gather_matmul": _gather_matmul,
}
"""A tiny case of each kernel."""

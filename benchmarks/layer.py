"""One layer's kernels at real sizes, each against its reference: the first part of a GPU run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import qwen3_mlx.backend  # noqa: F401  (before mlx)

import mlx.core as mx

from benchmarks.accuracy import error, packed, random
from qwen3_mlx.metal import attend, down, gate_up, matvec, route

START = time.perf_counter()
RESULTS: dict[str, Any] = {}
Pairs = list[tuple[str, mx.array, mx.array]]


def say(text: str) -> None:
    """Print with the time since the start."""
    print(f"[{time.perf_counter() - START:6.1f} s] {text}", flush=True)


def case(name: str, make: Callable[[], Pairs]) -> None:
    """Run one case, print its errors."""
    begin = time.perf_counter()
    try:
        errors = {label: error(got, want) for label, got, want in make()}
        text = ", ".join(f"{label} {value:.1e}" for label, value in errors.items())
    except Exception as fault:
        errors, text = {}, f"FAILED {str(fault)[:300]}"
    took = time.perf_counter() - begin
    RESULTS.setdefault("accuracy", {})[name] = {"nmse": errors, "seconds": took, "text": text}
    say(f"{name}: {text}  ({took:.1f} s)")


def layer_cases(
    dtype: mx.Dtype, hidden: int, ffn: int, heads: tuple[int, int], tokens: int
) -> None:
    """The launches of one Mixture-of-Experts layer at real sizes, each against its reference."""
    spec, eps = (4, 64, dtype), 1e-6
    x, norm = random(1, 1, hidden, dtype=dtype), 1 + random(hidden, dtype=dtype) / 8
    tag = f"{str(dtype).removeprefix('mlx.core.')} {hidden}x{ffn} T={tokens}"

    def projections() -> Pairs:
        parts = [packed(spec, n * 128, hidden) for n in (heads[0], heads[1], heads[1])]
        got = matvec.matvec(x, parts, norm, eps)
        return [("qkv", got, matvec.reference(x, parts, norm, 1e-6))]

    def output() -> Pairs:
        part, mixed = (
            packed(spec, hidden, heads[0] * 128),
            random(1, 1, heads[0] * 128, dtype=dtype),
        )
        got = matvec.matvec(mixed, [part], residual=x)
        return [("out", got, matvec.reference(mixed, [part], residual=x))]

    def router() -> Pairs:
        part = packed((8, 64, dtype), 128, hidden)
        got = matvec.matvec(x, [part], norm, eps)
        return [("router", got, matvec.reference(x, [part], norm, 1e-6))]

    def choice() -> Pairs:
        logits = random(tokens, 128, dtype=dtype)
        ours, right = route.route(logits, 8, True), route.reference(logits, 8, True)
        return [("experts", ours[0], right[0]), ("weights", ours[1], right[1])]

    def experts() -> Pairs:
        many = random(tokens, hidden, dtype=dtype)
        chosen, weights = route.reference(random(tokens, 16, dtype=dtype), 8, True)
        gate, up = packed(spec, 16, ffn, hidden), packed(spec, 16, ffn, hidden)
        h = gate_up.gate_up(many, gate, up, chosen, weights, norm, eps)
        want = gate_up.reference(many, gate, up, chosen, weights, norm, 1e-6)
        last = packed(spec, 16, hidden, ffn)
        y = down.down(h, last, chosen, many)
        return [("gate_up", h, want), ("down", y, down.reference(h, last, chosen, many))]

    def attention() -> Pairs:
        qkv = random(1, 1, (heads[0] + 2 * heads[1]) * 128, dtype=dtype)
        gains = (1 + random(128, dtype=dtype) / 8, 1 + random(128, dtype=dtype) / 8)
        table = mx.array([1e6 ** (-i / 64) for i in range(64)] + [1.0], mx.float32)
        pairs = []
        for held, recent in ((511, 63), (5000, 1)):
            keys, values = (random(1, heads[1], held + 9, 128, dtype=dtype) for _ in range(2))
            tail = random(2, heads[1], 64, 128, dtype=dtype)
            past = attend.Past(keys, values, tail, mx.array([held, recent], mx.int32))
            out, grown = attend.attend(qkv, heads, gains, eps, table, past)
            want, rows = attend.reference(qkv, heads, gains, 1e-6, table, past)
            pairs += [(f"attend {held}", out, want)]
            pairs += [(f"tail {held}", grown[:, :, : recent + 1], rows)]
        return pairs

    for part in (projections, output, router, choice, experts, attention):
        case(f"{tag} {part.__name__}", part)

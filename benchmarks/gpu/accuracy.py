"""One layer's kernels at real sizes, each against float32, beside MLX's own operations."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

import qwen3_mlx.device.backend  # noqa: F401  (before mlx)

import mlx.core as mx

from benchmarks.gpu import RESULTS, say
from qwen3_mlx.metal import attend, down, gate_up, gather_matmul, matvec, rotation, route
from qwen3_mlx.metal.matrix import Matrix
from qwen3_mlx.nn.mlp import swiglu
from qwen3_mlx.nn.moe import route as plain_route

Rows = list[tuple[str, mx.array, mx.array, mx.array | None]]
"""Name, the kernel's result, the reference, and the result of MLX's own operations."""


def random(*shape: int, dtype: mx.Dtype) -> mx.array:
    """An array of normally distributed numbers."""
    return mx.random.normal(shape).astype(dtype)


def packed(spec: tuple[int, int, mx.Dtype], *shape: int) -> Matrix:
    """A random matrix of std 1/√K, packed in (bits, group, dtype)."""
    bits, group, dtype = spec
    weight = (mx.random.normal(shape) * shape[-1] ** -0.5).astype(dtype)
    if not bits:
        return Matrix(weight)
    while shape[-1] % group:
        group //= 2
    return Matrix(*mx.quantize(weight, group, bits), bits=bits, group=group)


def product(x: mx.array, m: Matrix) -> mx.array:
    """``x @ m.T`` by MLX's own operation."""
    if m.scales is None:
        return x @ m.weight.T
    return mx.quantized_matmul(x, m.weight, m.scales, m.biases, True, m.group, m.bits)


def error(got: mx.array, want: mx.array) -> float:
    """Normalised mean squared error, in float32 on the device."""
    got, want = got.astype(mx.float32), want.astype(mx.float32)
    return float(mx.square(got - want).sum() / mx.square(want).sum())


def case(name: str, make: Callable[[], Rows]) -> None:
    """Run one case; print and keep the errors of ours and of MLX's own."""
    begin = time.perf_counter()
    mine: dict[str, float] = {}
    stock: dict[str, float] = {}
    try:
        for label, got, want, other in make():
            mine[label] = error(got, want)
            if other is not None:
                stock[label] = error(other, want)
        beside = {label: f" (stock {value:.1e})" for label, value in stock.items()}
        text = ", ".join(f"{key} {value:.1e}{beside.get(key, '')}" for key, value in mine.items())
    except Exception as fault:
        text = f"FAILED {str(fault)[:300]}"
    took = time.perf_counter() - begin
    worse = {label: not _no_worse(value, stock.get(label)) for label, value in mine.items()}
    row = {"nmse": mine, "stock": stock, "worse": worse, "seconds": took, "text": text}
    RESULTS.setdefault("accuracy", {})[name] = row
    flag = (
        f"  WORSE: {', '.join(k for k, bad in worse.items() if bad)}" if any(worse.values()) else ""
    )
    say(f"{name}: {text}  ({took:.1f} s){flag}")


def _no_worse(mine: float, stock: float | None) -> bool:
    """A tenth more than stock's is chance: both are one rounding. So is what float32 rounds to."""
    return math.isfinite(mine) and (stock is None or mine <= 1.1 * stock or mine <= 1e-11)


def _routed(x: mx.array, m: Matrix, chosen: mx.array) -> mx.array:
    """MLX's own products of ``x [T, top_k, K]``, pair by pair: its gather compiles for minutes."""
    assert m.scales is not None and m.biases is not None
    rows = []
    for token in range(chosen.shape[0]):
        for slot in range(chosen.shape[1]):
            e = chosen[token, slot]
            one = Matrix(m.weight[e], m.scales[e], m.biases[e], m.bits, m.group)
            rows.append(product(x[token, slot][None], one))
    return mx.concatenate(rows).reshape(*chosen.shape, -1)


def layer_cases(
    dtype: mx.Dtype, hidden: int, ffn: int, heads: tuple[int, int], tokens: int
) -> None:
    """The launches of one Mixture-of-Experts layer at real sizes, each against its reference."""
    spec, eps = (4, 64, dtype), 1e-6
    x, norm = random(1, 1, hidden, dtype=dtype), 1 + random(hidden, dtype=dtype) / 8
    tag = f"{str(dtype).removeprefix('mlx.core.')} {hidden}x{ffn} T={tokens}"

    def projections() -> Rows:
        parts = [packed(spec, n * 128, hidden) for n in (heads[0], heads[1], heads[1])]
        got = matvec.matvec(x, parts, norm, eps)
        normed = mx.fast.rms_norm(x, norm, eps)
        stock = mx.concatenate([product(normed, m) for m in parts], axis=-1)
        return [("qkv", got, matvec.reference(x, parts, norm, eps), stock)]

    def output() -> Rows:
        part, mixed = (
            packed(spec, hidden, heads[0] * 128),
            random(1, 1, heads[0] * 128, dtype=dtype),
        )
        got = matvec.matvec(mixed, [part], residual=x)
        stock = x + product(mixed, part)
        return [("out", got, matvec.reference(mixed, [part], residual=x), stock)]

    def router() -> Rows:
        part = packed((8, 64, dtype), 128, hidden)
        got = matvec.matvec(x, [part], norm, eps)
        stock = product(mx.fast.rms_norm(x, norm, eps), part)
        return [("router", got, matvec.reference(x, [part], norm, eps), stock)]

    def choice() -> Rows:
        logits = random(tokens, 128, dtype=dtype)
        ours, right = route.route(logits, 8, True), route.reference(logits, 8, True)
        stock = -mx.sort(-plain_route(logits, 8, True)[1], axis=-1)
        return [("experts", ours[0], right[0], None), ("weights", ours[1], right[1], stock)]

    def experts() -> Rows:
        many = random(tokens, hidden, dtype=dtype)
        chosen, weights = route.reference(random(tokens, 16, dtype=dtype), 8, True)
        gate, up = packed(spec, 16, ffn, hidden), packed(spec, 16, ffn, hidden)
        h = gate_up.gate_up(many, gate, up, chosen, weights, norm, eps)
        want = gate_up.reference(many, gate, up, chosen, weights, norm, eps)
        pairs = mx.repeat(mx.fast.rms_norm(many, norm, eps)[:, None], 8, axis=1)
        g, u = _routed(pairs, gate, chosen), _routed(pairs, up, chosen)
        stock = (swiglu(g, u) * weights[..., None]).astype(dtype)
        last = packed(spec, 16, hidden, ffn)
        y, true = down.down(h, last, chosen, many), down.reference(h, last, chosen, many)
        summed = _routed(h, last, chosen).astype(mx.float32).sum(axis=1).astype(dtype)
        return [("gate_up", h, want, stock), ("down", y, true, many + summed)]

    parts = {one.__name__: one for one in (projections, output, router, choice, experts)}
    parts |= {one.__name__: partial(one, dtype, heads, eps) for one in (attention, turning)}
    if dtype != mx.float32:
        parts["prompt"] = partial(prompt, dtype, hidden, ffn)
    for name, part in parts.items():
        if tokens == 1 or name in ("choice", "experts"):
            case(f"{tag} {name}", part)


def prompt(dtype: mx.Dtype, hidden: int, ffn: int) -> Rows:
    """24 tokens through 8 of 16 experts, on matrix units."""
    spec = (4, 64, dtype)
    x = random(24, hidden, dtype=dtype)
    chosen, weights = route.reference(random(24, 16, dtype=dtype), 8, True)
    shapes = ((ffn, hidden), (ffn, hidden), (hidden, ffn))
    gate, up, last = (packed(spec, 16, *shape) for shape in shapes)
    plan = gather_matmul.plan(chosen, 16)
    h = gather_matmul.gate_up(x, gate, up, weights, plan)
    got = gather_matmul.down(h, last, plan)
    _, want = gather_matmul.reference(x, (gate, up, last), chosen, weights)

    def unpacked(m: Matrix) -> mx.array:  # MLX's way of multiplying many rows by packed weights
        assert m.scales is not None
        return mx.dequantize(m.weight, m.scales, m.biases, m.group, m.bits, dtype=dtype)[chosen]

    rows = x[:, None, :, None]
    hidden_rows = swiglu(unpacked(gate) @ rows, unpacked(up) @ rows)
    stock = (unpacked(last) @ hidden_rows)[..., 0] * weights[..., None]
    return [("experts", got, want, stock)]


def attention(dtype: mx.Dtype, heads: tuple[int, int], eps: float) -> Rows:
    """One token's, short past and split past."""
    qkv = random(1, 1, (heads[0] + 2 * heads[1]) * 128, dtype=dtype)
    gains = (1 + random(128, dtype=dtype) / 8, 1 + random(128, dtype=dtype) / 8)
    found: Rows = []
    for held, recent, bits in ((511, 63, 0), (5000, 1, 0), (511, 63, 8), (5000, 1, 4)):
        size = (1, heads[1], held + 9, 128)
        keys, values = (packed((bits, 64, dtype), *size) for _ in range(2))
        tail = random(2, heads[1], 64, 128, dtype=dtype)
        past = attend.Past(keys, values, tail, mx.array([held, recent], mx.int32))
        turns = rotation.rotation(TABLE, past.counts)
        out, grown = attend.attend(qkv, heads, gains, eps, turns, past)
        want, rows = attend.reference(qkv, heads, gains, eps, turns, past)
        stock = _attended(qkv, heads, gains, eps, past)
        name = f"{held} in {bits} bits" if bits else str(held)
        found += [(f"attend {name}", out, want, stock)]
        found += [(f"tail {name}", grown[:, :, : recent + 1], rows, None)]
    return found


def turning(dtype: mx.Dtype, heads: tuple[int, int], eps: float) -> Rows:
    """The rotation of one token alone: a key head of it, by MLX's operations and by ours."""
    del dtype, heads, eps  # it depends on the position alone
    counts = mx.array([448, 63], mx.int32)
    got, want = rotation.rotation(TABLE, counts), rotation.reference(TABLE, 511)
    angle = 511 * TABLE[:-1]
    return [("turns", got, want, mx.stack([mx.cos(angle), mx.sin(angle)]))]


TABLE = mx.array([1e6 ** (-i / 64) for i in range(64)] + [1.0], mx.float32)
"""Radians a position, and YaRN's factor."""


def _turned(
    qkv: mx.array, heads: tuple[int, int], gains: tuple[mx.array, mx.array], eps: float, at: int
) -> tuple[mx.array, mx.array, mx.array]:
    """Queries, keys and values by MLX's own operations."""
    x = qkv.reshape(1, 1, -1, 128).swapaxes(1, 2)
    q, k, v = mx.split(x, [heads[0], sum(heads)], axis=1)

    def turn(x: mx.array, gain: mx.array) -> mx.array:
        x = mx.fast.rms_norm(x, gain, eps)
        return mx.fast.rope(x, 128, traditional=False, base=1e6, scale=1.0, offset=at)

    return turn(q, gains[0]), turn(k, gains[1]), v


def _attended(
    qkv: mx.array,
    heads: tuple[int, int],
    gains: tuple[mx.array, mx.array],
    eps: float,
    past: attend.Past,
) -> mx.array:
    """Attention by MLX's own operations."""
    held, recent = (int(past.counts[i]) for i in range(2))
    q, k, v = _turned(qkv, heads, gains, eps, held + recent)
    old = [matrix.dequantized().astype(q.dtype) for matrix in (past.keys, past.values)]
    keys = mx.concatenate([old[0][:, :, :held], past.tail[None, 0, :, :recent], k], axis=2)
    values = mx.concatenate([old[1][:, :, :held], past.tail[None, 1, :, :recent], v], axis=2)
    mixed = mx.fast.scaled_dot_product_attention(q, keys, values, scale=128**-0.5)
    return mixed.swapaxes(1, 2).reshape(1, 1, -1)

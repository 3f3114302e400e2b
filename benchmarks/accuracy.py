"""Every kernel against its float32 reference on this machine's GPU, beside MLX's own operations.

    MLX_ENABLE_TF32=0 python -m benchmarks.accuracy

Prints a row a case and writes them all; exits with 1 if a kernel is worse than its bound, or than
MLX's own operations by more than a tenth.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("MLX_ENABLE_TF32", "0")

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from benchmarks.record import write
from qwen3_mlx.metal import attend, down, gate_up, matvec, qk_rope, route
from qwen3_mlx.metal.matrix import Matrix

BOUNDS = {mx.float32: 1e-11, mx.float16: 2e-7, mx.bfloat16: 1e-5}
SIZES = [(256, 96), (2048, 768), (4096, 1536), (6144, 2560)]
PACKINGS = [(4, 64), (4, 32), (8, 128), (0, 0)]

Case = tuple[str, mx.array, mx.array, mx.array | None]
"""What it is; the kernel's result, the reference, and that of MLX's own operations."""


def random(*shape: int, dtype: mx.Dtype) -> mx.array:
    """Normal numbers."""
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
    """MLX's own."""
    if m.scales is None:
        return x @ m.weight.T
    return mx.quantized_matmul(x, m.weight, m.scales, m.biases, True, m.group, m.bits)


def gathered(x: mx.array, m: Matrix, experts: mx.array) -> mx.array:
    """MLX's own: ``x [N, 1, K]`` through ``experts [N]``."""
    rows = mx.arange(x.shape[0], dtype=mx.uint32)
    if m.scales is None:
        if backend.device() == "cpu":  # gather_mm knows float32 only there
            x, m = x.astype(mx.float32), Matrix(m.weight.astype(mx.float32))
        return mx.gather_mm(x, m.weight.swapaxes(-1, -2), rows, experts)
    return mx.gather_qmm(x, m.weight, m.scales, m.biases, rows, experts, True, m.group, m.bits)


def dense(dtype: mx.Dtype, size: tuple[int, int], packing: tuple[int, int]) -> Iterator[Case]:
    """Matrices of one token."""
    wide, narrow = size
    spec = (*packing, dtype)
    name = f"{dtype} {wide}x{narrow} {packing}"
    x, norm, residual = (random(1, 1, wide, dtype=dtype) for _ in range(3))
    norm = 1 + norm.flatten() / 8
    eps = 1e-6
    parts = [packed(spec, n, wide) for n in (2 * narrow, narrow, narrow)]
    got = matvec.matvec(x, parts, norm, eps)
    normed = mx.fast.rms_norm(x, norm, 1e-6)
    stock = mx.concatenate([product(normed, m) for m in parts], axis=-1)
    yield f"matvec norm {name}", got, matvec.reference(x, parts, norm, 1e-6), stock
    out, h = packed(spec, wide, narrow), random(1, 1, narrow, dtype=dtype)
    want = matvec.reference(h, [out], residual=residual)
    got = matvec.matvec(h, [out], residual=residual)
    yield f"matvec residual {name}", got, want, residual + product(h, out)
    gate, up = (packed(spec, narrow, wide) for _ in range(2))
    got = gate_up.gate_up(x, gate, up, norm=norm, eps=eps)
    want = gate_up.reference(x, gate, up, norm=norm, eps=1e-6)
    g, u = product(normed, gate), product(normed, up)
    yield f"gate_up {name}", got, want, g * mx.sigmoid(g) * u


def experts(dtype: mx.Dtype, size: tuple[int, int], packing: tuple[int, int]) -> Iterator[Case]:
    """Routed experts, 1 to 8 tokens."""
    wide, narrow = size
    spec = (*packing, dtype)
    gate, up = (packed(spec, 12, narrow, wide) for _ in range(2))
    last = packed(spec, 12, wide, narrow)
    for tokens in (1, 3, 8):
        name = f"{dtype} T={tokens} {wide}x{narrow} {packing}"
        x, residual = (random(tokens, wide, dtype=dtype) for _ in range(2))
        chosen, weights = route.reference(random(tokens, 12, dtype=dtype), 8, True)
        h = gate_up.gate_up(x, gate, up, chosen, weights)
        pairs, flat = mx.repeat(x, 8, axis=0)[:, None], chosen.flatten()
        g, u = gathered(pairs, gate, flat), gathered(pairs, up, flat)
        stock = (g * mx.sigmoid(g) * u).reshape(h.shape)
        stock = (stock * weights[..., None]).astype(dtype)
        want = gate_up.reference(x, gate, up, chosen, weights)
        yield f"gate_up routed {name}", h, want, stock
        got = down.down(h, last, chosen, residual)
        want = down.reference(h, last, chosen, residual)
        single = gathered(h.reshape(-1, 1, narrow), last, flat).reshape(tokens, 8, wide)
        stock = residual + single.sum(1)
        yield f"down {name}", got, want, stock


def routers(dtype: mx.Dtype) -> Iterator[Case]:
    """The router's choice."""
    for count, top_k in ((128, 8), (160, 8), (16, 4), (20, 20)):
        logits = random(5, count, dtype=dtype)
        for got, want in zip(
            route.route(logits, top_k, True), route.reference(logits, top_k, True), strict=True
        ):
            yield f"route {dtype} {top_k} of {count}", got, want, None


def attention(dtype: mx.Dtype) -> Iterator[Case]:
    """Attention of one token, short past and split past."""
    eps = 1e-6
    for heads, dim, held, recent in (
        ((32, 4), 128, 511, 63),
        ((32, 8), 128, 5000, 1),
        ((4, 1), 64, 1, 0),
        ((64, 4), 128, 33_000, 40),
    ):
        qkv = random(1, 1, (heads[0] + 2 * heads[1]) * dim, dtype=dtype)
        norms = tuple(1 + random(dim, dtype=dtype) / 8 for _ in range(2))
        table = mx.array([1e6 ** (-2 * i / dim) for i in range(dim // 2)] + [1.0], mx.float32)
        capacity = -(-held // 256) * 256
        past = attend.Past(
            Matrix(random(1, heads[1], capacity, dim, dtype=dtype)),
            Matrix(random(1, heads[1], capacity, dim, dtype=dtype)),
            random(2, heads[1], 64, dim, dtype=dtype),
            mx.array([held, recent], mx.int32),
        )
        # to mypy, lists and starred arguments have no length or kinds
        got, tail = attend.attend(qkv, heads, norms, eps, table, past)  # type: ignore[arg-type]
        # to mypy, lists and starred arguments have no length or kinds
        want, rows = attend.reference(qkv, heads, norms, 1e-6, table, past)  # type: ignore[arg-type]
        name = f"{dtype} {heads} D={dim} S={held}+{recent}"
        yield f"attend {name}", got, want, None
        yield f"attend tail {name}", tail[:, :, : recent + 1], rows, None
        offset = mx.array([held], mx.int32)
        args = (qkv, heads, *norms)
        # to mypy, lists and starred arguments have no length or kinds
        turned = qk_rope.qk_rope(*args, eps, table, offset)  # type: ignore[call-arg, arg-type]
        # to mypy, lists and starred arguments have no length or kinds
        truth = qk_rope.reference(*args, 1e-6, table, held)  # type: ignore[call-arg, arg-type]
        for part, ours, right in zip("qkv", turned, truth, strict=True):
            yield f"qk_rope {part} {name}", ours, right, None


def cases(quick: bool) -> Iterator[Case]:
    """All of them."""
    for dtype in BOUNDS:
        for size, packing in itertools.product(SIZES[: 1 if quick else None], PACKINGS):
            yield from dense(dtype, size, packing)
            yield from experts(dtype, size, packing)
        yield from routers(dtype)
        yield from attention(dtype)


def error(got: mx.array, want: mx.array) -> float:
    """Normalised mean squared error, in float32 on the device."""
    got, want = got.astype(mx.float32), want.astype(mx.float32)
    return float(mx.square(got - want).sum() / mx.square(want).sum())


def main() -> None:
    """Check, print and write the record."""
    mx.random.seed(0)
    rows: list[dict[str, Any]] = []
    for name, got, want, stock in cases(quick=backend.device() == "cpu" or "--quick" in sys.argv):
        ours, theirs = error(got, want), None if stock is None else error(stock, want)
        if stock is not None and stock.dtype != got.dtype:
            theirs = None
        bound = BOUNDS.get(got.dtype, 0.0)
        worse = theirs is not None and ours > 1.1 * theirs and ours > bound / 4
        passed = ours <= bound and not worse
        rows.append({"case": name, "nmse": ours, "stock": theirs, "passed": passed})
        if not passed:
            print(f"FAILED {name}: {ours:.2e}, stock {theirs}, bound {bound}")
    for kernel in ("matvec", "gate_up", "down", "route", "attend", "qk_rope"):
        for dtype in BOUNDS:
            mine = [r for r in rows if r["case"].startswith(kernel) and str(dtype) in r["case"]]
            worst = max(r["nmse"] for r in mine)
            most = max((r["stock"] for r in mine if r["stock"] is not None), default=0.0)
            print(
                f"{kernel:8} {dtype!s:18} {len(mine):4} cases, worst {worst:.1e} (stock {most:.1e})"
            )
    failed = sum(not row["passed"] for row in rows)
    print(f"{len(rows)} cases, {failed} failed; {write('accuracy', rows)}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

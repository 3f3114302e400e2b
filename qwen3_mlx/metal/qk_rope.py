"""Query norm, key norm and both rotations in one launch, straight from the joined projections."""

from __future__ import annotations

import mlx.core as mx

from qwen3_mlx.metal.launch import Constant, Launch, run
from qwen3_mlx.metal.matrix import FLOATS, float_bits, launch_grid

_SIMDS = 4


def reference(
    qkv: mx.array,
    heads: tuple[int, int],
    q_norm: mx.array,
    k_norm: mx.array,
    eps: float,
    table: mx.array,
    offset: int,
) -> tuple[mx.array, mx.array, mx.array]:
    """``qk_rope`` in float32."""
    queries, keys = heads
    dim = q_norm.shape[0]
    x = qkv.astype(mx.float32).reshape(-1, queries + 2 * keys, dim).swapaxes(0, 1)  # [H, L, D]
    positions = mx.arange(offset, offset + x.shape[1]).astype(mx.float32)
    angle = positions[:, None] * table[: dim // 2]
    cos, sin = mx.cos(angle) * table[-1], mx.sin(angle) * table[-1]

    def turn(x: mx.array, weight: mx.array) -> mx.array:
        x = x * mx.rsqrt((x * x).mean(-1, keepdims=True) + eps) * weight.astype(mx.float32)
        a, b = mx.split(x, 2, axis=-1)
        return mx.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    q, k, v = mx.split(x, [queries, queries + keys])
    return turn(q, q_norm)[None], turn(k, k_norm)[None], v[None]


def supported(qkv: mx.array, q_norm: mx.array, k_norm: mx.array) -> str | None:
    """Why `qk_rope` can't take these, or None."""
    dim = q_norm.shape[0]
    if qkv.dtype not in FLOATS or {q_norm.dtype, k_norm.dtype} != {qkv.dtype}:
        return f"dtypes {qkv.dtype}, {q_norm.dtype}, {k_norm.dtype}: expected one floating dtype"
    if dim not in (8, 16, 32, 64, 128, 256):
        return f"head_dim {dim}: expected a power of two from 8 to 256"
    if qkv.ndim == 3 and qkv.shape[0] != 1:
        return f"{qkv.shape[0]} sequences: expected 1"
    return None


def qk_rope(
    qkv: mx.array,
    heads: tuple[int, int],
    q_norm: mx.array,
    k_norm: mx.array,
    eps: float,
    table: mx.array,
    offset: mx.array,
) -> tuple[mx.array, mx.array, mx.array]:
    """``qkv [1, L, (H + 2K) · D]`` to q ``[1, H, L, D]``, k and v ``[1, K, L, D]``.

    heads: H and K. offset ``[1]`` int32: the position of the first token, on
    the device, so that a step compiled once serves all positions. table ``[D/2 + 1]`` float32:
    radians per position, then the factor of YaRN (1 without it).
    """
    queries, keys = heads
    dim = q_norm.shape[0]
    tokens = qkv.size // ((queries + 2 * keys) * dim)
    grid, threadgroup = launch_grid(queries + 2 * keys, 1, _SIMDS, tokens)
    constants: dict[str, Constant] = {"T": qkv.dtype, "H": queries, "KV": keys, "D": dim}
    constants |= {"L": tokens, "SIMDS": _SIMDS, "EPS": float_bits(eps)}
    shapes = {"q": queries, "k": keys, "v": keys}
    q, k, v = run(
        Launch(
            "qk_rope",
            {"qkv": qkv, "q_norm": q_norm, "k_norm": k_norm} | {"table": table, "offset": offset},
            {name: ((1, n, tokens, dim), qkv.dtype) for name, n in shapes.items()},
            constants,
            grid,
            threadgroup,
        )
    )
    return q, k, v

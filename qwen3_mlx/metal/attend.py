"""Attention of one new token, from the joined projections to the heads' outputs.

Stock MLX makes nine launches of this (two norms, two rotations, two cache writes, their offsets,
the attention); here it is one, or two where the past is long enough to be split.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mlx.core as mx

from qwen3_mlx.metal import qk_rope
from qwen3_mlx.metal.launch import SIMD, Constant, Launch, run
from qwen3_mlx.metal.matrix import Matrix, float_bits

TAIL = 64
"""Tokens a tail holds before they must be written to the keys and values."""

_LANES = 8
"""Lanes that share a key."""

_SPLIT_FROM = 1024  # tokens of capacity: below, one threadgroup a head reads them as fast
_PART = 512


@dataclass(frozen=True, slots=True)
class Past:
    """What one layer remembers: ``keys, values [1, K, S, D]``, as computed or packed, of which the
    first ``counts[0]`` tokens count, and ``tail [2, K, TAIL, D]``, keys then values of the
    ``counts[1]`` after them, in the dtype of what was computed.
    """

    keys: Matrix
    values: Matrix
    tail: mx.array
    counts: mx.array


def reference(
    qkv: mx.array,
    heads: tuple[int, int],
    norms: tuple[mx.array, mx.array],
    eps: float,
    table: mx.array,
    past: Past,
) -> tuple[mx.array, mx.array]:
    """``attend`` in float32; of the tail only the rows in use."""
    held, recent = (int(past.counts[i]) for i in range(2))
    q, k, v = qk_rope.reference(qkv, heads, *norms, eps, table, held + recent)
    tail = [mx.concatenate([past.tail[i, :, :recent].astype(mx.float32), new[0]], axis=1)
            for i, new in enumerate((k, v))]  # fmt: skip
    keys = mx.concatenate([past.keys.dequantized()[0, :, :held], tail[0]], axis=1)
    values = mx.concatenate([past.values.dequantized()[0, :, :held], tail[1]], axis=1)
    repeats = heads[0] // heads[1]
    keys, values = mx.repeat(keys, repeats, axis=0), mx.repeat(values, repeats, axis=0)
    scores = (q[0] @ keys.swapaxes(1, 2)) * q.shape[-1] ** -0.5  # [H, 1, S]
    out = mx.softmax(scores, axis=-1) @ values
    return out.reshape(1, 1, -1), mx.stack(tail)


def unsupported_dim(dim: int) -> str | None:
    """Why heads of `dim` elements don't fit a simdgroup's lanes, or None."""
    if dim not in (8, 16, 32, 64, 128, 256):
        return f"head_dim {dim}: expected a power of two from 8 to 256"
    return None


def unsupported_reason(
    qkv: mx.array, heads: tuple[int, int], norms: tuple[mx.array, mx.array], past: Past
) -> str | None:
    """Why `attend` can't take these, or None."""
    dim = norms[0].shape[0]
    kept = past.keys.weight if past.keys.scales is None else past.keys.scales
    if {kept.dtype, past.tail.dtype} != {qkv.dtype}:
        return f"the cache holds {kept.dtype}, the token is {qkv.dtype}"
    if reason := unsupported_dim(dim):
        return reason
    if qkv.size != (heads[0] + 2 * heads[1]) * dim:
        return "more than one token"
    return qk_rope.supported(qkv, *norms)


def attend(
    qkv: mx.array,
    heads: tuple[int, int],
    norms: tuple[mx.array, mx.array],
    eps: float,
    table: mx.array,
    past: Past,
) -> tuple[mx.array, mx.array]:
    """``qkv [1, 1, (H + 2K) · D]`` of one token to ``[1, 1, H · D]`` and the tail it is added to.

    heads: H and K. norms: the weights of q-norm and k-norm, ``[D]``. The rest is `qk_rope`'s; the
    token's position is the sum of ``past.counts [2]`` int32, on the device.
    """
    dim = norms[0].shape[0]
    splits = _splits(past.keys.weight.shape[2])
    queries, simds = _queries(heads, dim, splits), _simds(dim * qkv.dtype.size, splits)
    out_dtype = qkv.dtype if splits == 1 else mx.float32
    shape = (1, 1, heads[0] * dim) if splits == 1 else (heads[0], splits, dim + 2)
    constants: dict[str, Constant] = {"O": out_dtype, "SPLITS": splits, "QUERIES": queries}
    constants |= {"H": heads[0], "KV": heads[1], "D": dim, "EPS": float_bits(eps)}
    constants |= {"TAIL": past.tail.shape[2], "SIMDS": simds, "LANES": _LANES}
    out, tail = run(
        Launch(
            "attend",
            {"qkv": qkv, "q_norm": norms[0], "k_norm": norms[1], "table": table}
            | past.keys.inputs("keys_", "", qkv)
            | past.values.inputs("values_", "", qkv)
            | {"tail": past.tail, "counts": past.counts},
            {"out": (shape, out_dtype), "new_tail": (past.tail.shape, qkv.dtype)},
            past.keys.constants(qkv.dtype) | constants,
            (heads[0] // queries * simds * SIMD, splits, 1),
            (simds * SIMD, 1, 1),
        )
    )
    return (out if splits == 1 else _combine(out, qkv.dtype)), tail


def _simds(row_bytes: int, splits: int) -> int:
    """Simdgroups of a threadgroup: 16 where a short past has to be shared out, if registers allow
    it (CUDA: 95 a thread for rows of 256 bytes, 146 for 512; 213 where four heads read together).
    """
    return 16 if splits == 1 and row_bytes <= 256 else 8


def _queries(heads: tuple[int, int], dim: int, splits: int) -> int:
    """Heads of a threadgroup: several read a long past once, alone they share out a short one."""
    most = 1 if splits == 1 or dim > 128 else 4
    return math.gcd(heads[0] // heads[1], most)


def _splits(capacity: int) -> int:
    """Parts of the past: a power of two, so that few kernels are ever compiled."""
    if capacity <= _SPLIT_FROM:
        return 1
    return min(1 << (-(-capacity // _PART) - 1).bit_length(), 32)


def _combine(partial: mx.array, dtype: mx.Dtype) -> mx.array:
    heads, splits, width = partial.shape
    (out,) = run(
        Launch(
            "combine",
            {"partial": partial},
            {"out": ((1, 1, heads * (width - 2)), dtype)},
            {"T": dtype, "SPLITS": splits, "D": width - 2},
            (heads * SIMD, 1, 1),
            (SIMD, 1, 1),
        )
    )
    return out

"""Attention of one new token, from the joined projections to the heads' outputs.

Stock MLX makes nine launches of this (two norms, two rotations, two cache writes, their offsets,
the attention); here it is one, or two where the past is long enough to be split.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from qwen3_mlx.metal import tuning
from qwen3_mlx.metal.launch import SIMD, Constant, Launch, run
from qwen3_mlx.metal.matrix import FLOATS, Matrix, float_bits

TAIL = 64
"""Tokens a tail holds before they must be written to the keys and values."""

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
    turns: mx.array,
    past: Past,
) -> tuple[mx.array, mx.array]:
    """``attend`` in float32; of the tail only the rows in use."""
    held, recent = (int(past.counts[i]) for i in range(2))
    x = qkv.astype(mx.float32).reshape(1, sum(heads) + heads[1], 1, -1)
    q, k, v = mx.split(x, [heads[0], sum(heads)], axis=1)
    q, k = (_turned(head, norm, eps, turns) for head, norm in zip((q, k), norms, strict=True))
    tail = [mx.concatenate([past.tail[i, :, :recent].astype(mx.float32), new[0]], axis=1)
            for i, new in enumerate((k, v))]  # fmt: skip
    keys = mx.concatenate([past.keys.dequantized()[0, :, :held], tail[0]], axis=1)
    values = mx.concatenate([past.values.dequantized()[0, :, :held], tail[1]], axis=1)
    repeats = heads[0] // heads[1]
    keys, values = mx.repeat(keys, repeats, axis=0), mx.repeat(values, repeats, axis=0)
    scores = (q[0] @ keys.swapaxes(1, 2)) * q.shape[-1] ** -0.5  # [H, 1, S]
    out = mx.softmax(scores, axis=-1) @ values
    return out.reshape(1, 1, -1), mx.stack(tail)


def _turned(x: mx.array, norm: mx.array, eps: float, turns: mx.array) -> mx.array:
    """``x [..., D]`` after its norm and rotation."""
    x = x * mx.rsqrt((x * x).mean(-1, keepdims=True) + eps) * norm.astype(mx.float32)
    a, b = mx.split(x, 2, axis=-1)
    cos, sin = turns
    return mx.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def unsupported_dim(dim: int) -> str | None:
    """Why heads of `dim` elements don't fit a simdgroup's lanes, or None."""
    if dim not in (8, 16, 32, 64, 128, 256):
        return f"head_dim {dim}: expected a power of two from 8 to 256"
    return None


def unsupported_reason(
    qkv: mx.array, heads: tuple[int, int], norms: tuple[mx.array, mx.array], past: Past
) -> str | None:
    """Why `attend` can't take these, or None."""
    dim, dtypes = norms[0].shape[0], {array.dtype for array in (qkv, *norms)}
    kept = past.keys.weight if past.keys.scales is None else past.keys.scales
    if {kept.dtype, past.tail.dtype} != {qkv.dtype}:
        return f"the cache holds {kept.dtype}, the token is {qkv.dtype}"
    if reason := unsupported_dim(dim):
        return reason
    if qkv.size != (heads[0] + 2 * heads[1]) * dim:
        return "more than one token"
    if len(dtypes) > 1 or qkv.dtype not in FLOATS:
        return f"{', '.join(sorted(map(str, dtypes)))}: expected one floating dtype"
    return None


def attend(
    qkv: mx.array,
    heads: tuple[int, int],
    norms: tuple[mx.array, mx.array],
    eps: float,
    turns: mx.array,
    past: Past,
) -> tuple[mx.array, mx.array]:
    """``qkv [1, 1, (H + 2K) · D]`` of one token to ``[1, 1, H · D]`` and the tail it is added to.

    heads: H and K. norms: the weights of q-norm and k-norm, ``[D]``. turns: from `rotation`, at the
    position that ``past.counts`` sum up to.
    """
    dim, splits = norms[0].shape[0], _splits(past.keys.weight.shape[2])
    split = splits > 1
    lanes, queries, simds = tuning.attend(heads[0] // heads[1], dim, dim * qkv.dtype.size, split)
    out_dtype = mx.float32 if split else qkv.dtype
    shape = (heads[0], splits, dim + 2) if split else (1, 1, heads[0] * dim)
    constants: dict[str, Constant] = {"O": out_dtype, "SPLIT": split, "QUERIES": queries}
    constants |= {"H": heads[0], "KV": heads[1], "D": dim, "EPS": float_bits(eps)}
    constants |= {"TAIL": past.tail.shape[2], "SIMDS": simds, "LANES": lanes}
    out, tail = run(
        Launch(
            "attend",
            {"qkv": qkv, "q_norm": norms[0], "k_norm": norms[1], "turns": turns}
            | past.keys.inputs("keys_", "", qkv)
            | past.values.inputs("values_", "", qkv)
            | {"tail": past.tail, "counts": past.counts},
            {"out": (shape, out_dtype), "new_tail": (past.tail.shape, qkv.dtype)},
            past.keys.constants(qkv.dtype) | constants,
            (heads[0] // queries * simds * SIMD, splits, 1),
            (simds * SIMD, 1, 1),
        )
    )
    return (_combine(out, qkv.dtype) if split else out), tail


def _splits(capacity: int) -> int:
    """Parts of the past. The kernel reads their number from its grid, so that none is compiled when
    the past grows.
    """
    if capacity <= _SPLIT_FROM:
        return 1
    return min(1 << (-(-capacity // _PART) - 1).bit_length(), 32)


def _combine(partial: mx.array, dtype: mx.Dtype) -> mx.array:
    heads, _, width = partial.shape
    (out,) = run(
        Launch(
            "combine",
            {"partial": partial},
            {"out": ((1, 1, heads * (width - 2)), dtype)},
            {"T": dtype, "D": width - 2},
            (heads * SIMD, 1, 1),
            (SIMD, 1, 1),
        )
    )
    return out

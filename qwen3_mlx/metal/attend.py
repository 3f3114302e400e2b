"""Attention of new tokens, from the joint projection of q, k and v to the heads' outputs.

Stock MLX needs nine launches for this (two norms, two rotations, two cache writes, their offsets,
the attention); here it is one, or two if the past is long enough to be split. The input is one new
token, or rows: the last tokens of several sequences, several new tokens of one sequence, or both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from qwen3_mlx.metal import tuning
from qwen3_mlx.metal.launch import SIMD, Constant, Launch, run
from qwen3_mlx.metal.matrix import FLOATS, Matrix, float_bits

TAIL = 64
"""Tokens that a tail holds; when it is full, they are moved to the keys and values."""

_SPLIT_FROM = 1024  # tokens of capacity: up to here, one threadgroup per head is as fast
_PART = 512


@dataclass(frozen=True, slots=True)
class Past:
    """One layer's cache of a sequence: ``keys, values [1, K, S, D]``, plain or packed, of which the
    first ``counts[0]`` tokens are valid, and ``tail [2, K, TAIL, D]``, the keys, then the values,
    of the next ``counts[1]`` tokens, in the activations' dtype.
    """

    keys: Matrix
    values: Matrix
    tail: mx.array
    counts: mx.array


@dataclass(frozen=True, slots=True)
class Pasts:
    """One layer's caches of S sequences: ``keys`` and ``values`` of each as in `Past`,
    ``tails [S, 2, K, TAIL, D]``, ``counts [S, 2]``, and ``rows [R, 2]`` int32: the sequence of each
    row, and the number of rows of that sequence directly before it. ``most``: rows that a sequence
    may have.
    """

    keys: Sequence[Matrix]
    values: Sequence[Matrix]
    tails: mx.array
    counts: mx.array
    rows: mx.array
    most: int = 1


MOST_ROWS = 16
"""Rows of one step: as many as two tiles of a matrix unit hold."""


def most_sequences(packed: bool) -> int:
    """Sequences that one launch takes: Metal allows at most 31 arrays."""
    if backend.device() == "cuda":
        return MOST_ROWS
    return 2 if packed else 8


def reference(
    qkv: mx.array,
    heads: tuple[int, int],
    norms: tuple[mx.array, mx.array],
    eps: float,
    turns: mx.array,
    past: Past | Pasts,
) -> tuple[mx.array, mx.array]:
    """`attend` in float32; returns only the tail's used rows, for `Pasts` only the new rows."""
    if isinstance(past, Pasts):
        return one_by_one(reference, qkv, heads, norms, eps, turns, past)
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


def one_by_one(
    attend: Callable[..., tuple[mx.array, mx.array]],
    qkv: mx.array,
    heads: tuple[int, int],
    norms: tuple[mx.array, mx.array],
    eps: float,
    turns: mx.array,
    pasts: Pasts,
) -> tuple[mx.array, mx.array]:
    """Compute rows one by one, by an `attend` of one token that returns the tail's used rows.

    Returns ``[R, 1, H · D]``, and the key and value that each row added, ``[R, 2, K, D]``.
    """
    outs, added = [], []
    tails: dict[int, mx.array] = {}
    for row in range(len(pasts.rows)):
        index, ahead = (int(pasts.rows[row, i]) for i in range(2))
        held, recent = (int(pasts.counts[index, i]) for i in range(2))
        tail = tails.get(index, pasts.tails[index])
        counts = mx.array([held, recent + ahead], mx.int32)
        past = Past(pasts.keys[index], pasts.values[index], tail, counts)
        out, tails[index] = attend(qkv[row : row + 1], heads, norms, eps, turns[row], past)
        outs.append(out.reshape(1, 1, -1))
        added.append(tails[index][:, :, -1])
    return mx.concatenate(outs), mx.stack(added)


def _turned(x: mx.array, norm: mx.array, eps: float, turns: mx.array) -> mx.array:
    """``x [..., D]``, float32, after its RMS norm and rotation; turns ``[2, D/2]``."""
    x = x * mx.rsqrt((x * x).mean(-1, keepdims=True) + eps) * norm.astype(mx.float32)
    a, b = mx.split(x, 2, axis=-1)
    cos, sin = turns
    return mx.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def unsupported_dim(dim: int) -> str | None:
    """Why a simdgroup's lanes can't share heads of `dim` elements, or None."""
    if dim not in (8, 16, 32, 64, 128, 256):
        return f"head_dim {dim}: expected a power of two from 8 to 256"
    return None


def unsupported_reason(
    qkv: mx.array, heads: tuple[int, int], norms: tuple[mx.array, mx.array], past: Past
) -> str | None:
    """Why `attend` can't run on these inputs, or None."""
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
    past: Past | Pasts,
) -> tuple[mx.array, mx.array]:
    """``qkv [R, 1, (H + 2K) · D]`` to ``[R, 1, H · D]``, and the tails with what was added.

    heads: H and K. norms: the weights of q-norm and k-norm, ``[D]``. turns: from `rotation` of the
    same counts and rows. With a `Past`, R is 1.
    """
    dim, count = norms[0].shape[0], qkv.size // ((heads[0] + 2 * heads[1]) * norms[0].shape[0])
    pasts, rowed = (_one(past), False) if isinstance(past, Past) else (past, True)
    capacities = [keys.weight.shape[2] for keys in pasts.keys]
    splits = _splits(max(capacities))
    split = splits > 1
    names = padded(len(pasts.keys), pasts.keys[0].bits > 0)
    sharing = 4 if split or pasts.most > 1 else tuning.sharing(heads[0], names)
    lanes, queries, simds = tuning.attend(heads[0] // heads[1], dim, dim * qkv.dtype.size, sharing)
    out_dtype = mx.float32 if split else qkv.dtype
    shape = (count * heads[0], splits, dim + 2) if split else (count, 1, heads[0] * dim)
    constants: dict[str, Constant] = {"O": out_dtype, "SPLIT": split, "QUERIES": queries}
    constants |= {"H": heads[0], "KV": heads[1], "D": dim, "EPS": float_bits(eps)}
    constants |= {"TAIL": pasts.tails.shape[-2], "SIMDS": simds, "LANES": lanes}
    constants |= {"SEQUENCES": names, "MOST": pasts.most, "ROWED": rowed}
    kept = _arrays(pasts, names, qkv)
    out, tail = run(
        Launch(
            "attend",
            {"qkv": qkv, "q_norm": norms[0], "k_norm": norms[1], "turns": turns}
            | kept
            | {"tail": pasts.tails, "counts": pasts.counts, "rows": pasts.rows}
            | {"capacities": _padded_capacities(capacities) if rowed else pasts.counts},
            {"out": (shape, out_dtype), "new_tail": (pasts.tails.shape, qkv.dtype)},
            pasts.keys[0].constants(qkv.dtype) | constants,
            (heads[0] // queries * simds * SIMD, splits, count),
            (simds * SIMD, 1, 1),
            repeated=_repeated(names, pasts.keys[0].bits > 0),
        )
    )
    return (_combine(out, count, qkv.dtype) if split else out), tail


def _one(past: Past) -> Pasts:
    """One sequence with one row; the kernel doesn't read ``rows`` then, so `counts` stands in."""
    return Pasts([past.keys], [past.values], past.tail, past.counts, past.counts)


def padded(sequences: int, packed: bool) -> int:
    """The number of sequences that the source is compiled for: a power of two, to compile few."""
    return min(1 << (sequences - 1).bit_length(), max(most_sequences(packed), sequences))


def _repeated(names: int, packed: bool) -> frozenset[str]:
    """The names of all sequences' arrays but the first's: the source takes each of them."""
    letters = "wsb" if packed else "w"
    prefixes = (f"{prefix}_{letter}" for prefix in ("keys", "values") for letter in letters)
    return frozenset(f"{prefix}{index}" for prefix in prefixes for index in range(1, names))


def _padded_capacities(capacities: list[int]) -> mx.array:
    """Each sequence's capacity in tokens, padded to `MOST_ROWS`: Metal passes shorter arrays as
    constants, in another address space. A single token reads its buffer's shape, without a load.
    """
    return mx.array(capacities + [0] * (MOST_ROWS - len(capacities)), mx.int32)


def _arrays(pasts: Pasts, names: int, unused: mx.array) -> dict[str, mx.array]:
    """The arrays of all sequences by name; the first sequence's stand in for missing ones."""
    found: dict[str, mx.array] = {}
    for prefix, matrices in (("keys_", pasts.keys), ("values_", pasts.values)):
        for index in range(MOST_ROWS if names > 1 else 1):  # one sequence's source names no more
            matrix = matrices[index] if index < len(matrices) else matrices[0]
            found |= matrix.inputs(prefix, str(index), unused)
    return found


def _splits(capacity: int) -> int:
    """The number of parts of the past, at most 32. The kernel reads it from its grid, so a growing
    past needs no new compilation.
    """
    if capacity <= _SPLIT_FROM:
        return 1
    return min(1 << (-(-capacity // _PART) - 1).bit_length(), 32)


def _combine(partial: mx.array, rows: int, dtype: mx.Dtype) -> mx.array:
    heads, _, width = partial.shape
    (out,) = run(
        Launch(
            "combine",
            {"partial": partial},
            {"out": ((rows, 1, heads // rows * (width - 2)), dtype)},
            {"T": dtype, "D": width - 2},
            (heads * SIMD, 1, 1),
            (SIMD, 1, 1),
        )
    )
    return out

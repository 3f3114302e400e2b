"""Attention of new tokens, from the joined projections to the heads' outputs.

Stock MLX makes nine launches of this (two norms, two rotations, two cache writes, their offsets,
the attention); here it is one, or two where the past is long enough to be split. The new tokens are
one, or rows: the last tokens of several sequences, several new ones of a sequence, or both.
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
"""Tokens a tail holds before they must be written to the keys and values."""

SHARED_FROM = 4
"""Sequences from which several heads read their past together: there are threadgroups enough."""

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


@dataclass(frozen=True, slots=True)
class Pasts:
    """What one layer remembers of S sequences: ``keys`` and ``values`` of each as in `Past`,
    ``tails [S, 2, K, TAIL, D]``, ``counts [S, 2]``, and ``rows [R, 2]`` int32: which sequence each
    row is of, and how many rows before it are of the same one, directly before it. ``most``: rows
    that a sequence may have.
    """

    keys: Sequence[Matrix]
    values: Sequence[Matrix]
    tails: mx.array
    counts: mx.array
    rows: mx.array
    most: int = 1


MOST_ROWS = 16
"""Of a step: as many as matrix units take at once."""


def most_sequences(packed: bool) -> int:
    """That one launch takes: Metal has room for 31 arrays."""
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
    """``attend`` in float32; of the tail only the rows in use, of several tails the new ones."""
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
    """Rows by an `attend` of one token, which gives of the tail the rows in use.

    Returns ``[R, 1, H · D]``, and of each row what it added, ``[R, 2, K, D]``.
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
    past: Past | Pasts,
) -> tuple[mx.array, mx.array]:
    """``qkv [R, 1, (H + 2K) · D]`` to ``[R, 1, H · D]``, and the tails that they are added to.

    heads: H and K. norms: the weights of q-norm and k-norm, ``[D]``. turns: from `rotation`, of the
    same counts and rows. A `Past` is of one row.
    """
    dim, count = norms[0].shape[0], qkv.size // ((heads[0] + 2 * heads[1]) * norms[0].shape[0])
    pasts, rowed = (_one(past), False) if isinstance(past, Past) else (past, True)
    capacities = [keys.weight.shape[2] for keys in pasts.keys]
    splits = _splits(max(capacities))
    split = splits > 1
    names = padded(len(pasts.keys), pasts.keys[0].bits > 0)
    together = split or names >= SHARED_FROM or pasts.most > 1
    lanes, queries, simds = tuning.attend(heads[0] // heads[1], dim, dim * qkv.dtype.size, together)
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
    """One sequence and one row of it, of which no rows are read."""
    return Pasts([past.keys], [past.values], past.tail, past.counts, past.counts)


def padded(sequences: int, packed: bool) -> int:
    """Sequences that a text is made for: a power of two, so that there are few texts."""
    return min(1 << (sequences - 1).bit_length(), max(most_sequences(packed), sequences))


def _repeated(names: int, packed: bool) -> frozenset[str]:
    """The arrays of `names` sequences behind the first, which a text takes one by one."""
    letters = "wsb" if packed else "w"
    prefixes = (f"{prefix}_{letter}" for prefix in ("keys", "values") for letter in letters)
    return frozenset(f"{prefix}{index}" for prefix in prefixes for index in range(1, names))


def _padded_capacities(capacities: list[int]) -> mx.array:
    """Tokens that each sequence's buffers have room for; Metal passes few numbers as constants,
    which are another address space. A single token reads its buffer's shape: that costs no read.
    """
    return mx.array(capacities + [0] * (MOST_ROWS - len(capacities)), mx.int32)


def _arrays(pasts: Pasts, names: int, unused: mx.array) -> dict[str, mx.array]:
    """The arrays of all sequences by name; the first stands for those that aren't there."""
    found: dict[str, mx.array] = {}
    for prefix, matrices in (("keys_", pasts.keys), ("values_", pasts.values)):
        for index in range(MOST_ROWS if names > 1 else 1):  # as the text of one names no others
            matrix = matrices[index] if index < len(matrices) else matrices[0]
            found |= matrix.inputs(prefix, str(index), unused)
    return found


def _splits(capacity: int) -> int:
    """Parts of the past. The kernel reads their number from its grid, so that none is compiled when
    the past grows.
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

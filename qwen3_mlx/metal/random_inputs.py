"""Random weights, activations and caches in a network's sizes, for the proof."""

from __future__ import annotations

import mlx.core as mx

from qwen3_mlx.metal import attend
from qwen3_mlx.metal.matrix import Matrix
from qwen3_mlx.metal.variants import Packing, Signature


def random(dtype: mx.Dtype, *shape: int) -> mx.array:
    """An array of numbers from the standard normal distribution."""
    return mx.random.normal(shape).astype(dtype)


def gain(n: Signature, size: int) -> mx.array:
    """A norm's weight ``[size]``: normal, mean 1, standard deviation 1/8."""
    return (1 + mx.random.normal((size,)) / 8).astype(n.dtype)


def packed(packing: Packing, dtype: mx.Dtype, *shape: int) -> Matrix:
    """A random matrix ``[..., N, K]`` of std 1/√K; a packed one's integers are random bits."""
    bits, group = packing
    spread = shape[-1] ** -0.5
    if not bits:
        return Matrix((mx.random.normal(shape) * spread).astype(dtype))
    words = (*shape[:-1], shape[-1] * bits // 16)  # pairs of 16 bits: randint's bounds are int32
    weight = mx.random.randint(0, 1 << 16, words, mx.uint32).astype(mx.uint16).view(mx.uint32)
    scales = mx.random.uniform(0.5, 1.5, (*shape[:-1], shape[-1] // group))
    scales = (scales * (spread * 12**0.5 / 2**bits)).astype(dtype)
    return Matrix(weight, scales, scales * -((2**bits - 1) / 2), bits, group)


def of(n: Signature, role: str, *shape: int) -> Matrix:
    """A random matrix ``[..., N, K]``, packed as the network's matrices of `role`."""
    return packed(n.packing_of(role), n.dtype, *shape)


def rotation_table(n: Signature) -> mx.array:
    """The table of `rotation`: radians per position ``[D/2]`` (base 1e6), then the factor 1."""
    half = n.head_dim // 2
    return mx.array([1e6 ** (-i / half) for i in range(half)] + [1.0], mx.float32)


def past_of(n: Signature, held: int, recent: int) -> attend.Past:
    """A random past with `held` tokens in buffers of whole blocks of 256, `recent` in the tail."""
    capacity = -(-max(held, 1) // 256) * 256
    keys, values = (
        packed(n.kv_packing, n.dtype, 1, n.kv_heads, capacity, n.head_dim) for _ in range(2)
    )
    tail = random(n.dtype, 2, n.kv_heads, attend.TAIL, n.head_dim)
    return attend.Past(keys, values, tail, mx.array([held, recent], mx.int32))


def closed(n: Signature, past: attend.Past) -> attend.Past:
    """`past` with its tail's tokens moved to the keys and values, whose capacity stays."""
    held, recent = (int(past.counts[i]) for i in range(2))

    def put(old: mx.array | None, new: mx.array | None) -> mx.array | None:
        if old is None or new is None:
            return None
        return mx.concatenate([old[:, :, :held], new, old[:, :, held + recent :]], axis=2)

    made = []
    for old, new in zip((past.keys, past.values), past.tail[:, None, :, :recent], strict=True):
        bits, group = n.kv_packing
        rows = Matrix(*mx.quantize(new, group, bits), bits, group) if bits else Matrix(new)
        weight = put(old.weight, rows.weight)
        assert weight is not None
        scales, biases = put(old.scales, rows.scales), put(old.biases, rows.biases)
        made.append(Matrix(weight, scales, biases, bits, group))
    return attend.Past(made[0], made[1], past.tail, mx.array([held + recent, 0], mx.int32))

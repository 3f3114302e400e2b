"""Unpacks GGUF's block types to codes with a scale and a bias per group.

The layouts are ggml's (ggml-common.h, ggml-quants.c). The gguf package's NumPy decoders unpack
only 5 to 30 million weights per second: five minutes for 8B.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

_NL = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
"""The values of IQ4_NL's codes."""


class Codes(NamedTuple):
    """n blocks of G groups: ``w = scale * code + bias``."""

    codes: mx.array
    """uint8 ``[n, G, weights per group]``, in the order of the weights."""
    scale: mx.array
    """float32 ``[n, G]``."""
    bias: mx.array
    """float32 ``[n, G]``."""

    def dense(self) -> mx.array:
        """The weights, float32 ``[n, weights per block]``, computed as in ggml."""
        groups = self.codes * self.scale[..., None] + self.bias[..., None]
        return groups.reshape(groups.shape[0], -1)


def decode(kind: str, blocks: mx.array) -> Codes:
    """Unpack blocks of the type `kind`: uint8 ``[n, bytes of a block]``."""
    return _DECODERS[kind](blocks)


def _half(blocks: mx.array, at: int) -> mx.array:
    """The float16 at byte `at` of each block, as float32 ``[n, 1]``."""
    return mx.contiguous(blocks[:, at : at + 2]).view(mx.float16).astype(mx.float32)


def _nibbles(packed: mx.array) -> mx.array:
    """``[..., b]`` to ``[..., 2 b]``: all lower halves, then all upper ones."""
    return mx.concatenate([packed & 15, packed >> 4], axis=-1)


def _bit(masks: mx.array, numbers: mx.array) -> mx.array:
    return (masks >> numbers) & 1


def _q4_0(blocks: mx.array) -> Codes:
    d = _half(blocks, 0)
    return Codes(_nibbles(blocks[:, None, 2:]), d, -8 * d)


def _q4_1(blocks: mx.array) -> Codes:
    return Codes(_nibbles(blocks[:, None, 4:]), _half(blocks, 0), _half(blocks, 2))


def _fives(high: mx.array, low: mx.array) -> mx.array:
    """32 codes of 5 bits per block; four bytes hold their highest bits, lowest first."""
    top = _bit(high[:, :, None], mx.arange(8, dtype=mx.uint8)).reshape(-1, 32)
    return (_nibbles(low) | (top << 4))[:, None]


def _q5_0(blocks: mx.array) -> Codes:
    d = _half(blocks, 0)
    return Codes(_fives(blocks[:, 2:6], blocks[:, 6:]), d, -16 * d)


def _q5_1(blocks: mx.array) -> Codes:
    return Codes(_fives(blocks[:, 4:8], blocks[:, 8:]), _half(blocks, 0), _half(blocks, 2))


def _q8_0(blocks: mx.array) -> Codes:
    d = _half(blocks, 0)
    return Codes(blocks[:, None, 2:] ^ 128, d, -128 * d)  # int8 + 128


def _scales_and_mins(packed: mx.array) -> tuple[mx.array, mx.array]:
    """Eight scales and eight minima of 6 bits in 12 bytes, float32 ``[n, 8]`` each."""
    a, b, c = packed[:, :4], packed[:, 4:8], packed[:, 8:12]
    scales = mx.concatenate([a & 63, (c & 15) | ((a >> 6) << 4)], axis=-1)
    mins = mx.concatenate([b & 63, (c >> 4) | ((b >> 6) << 4)], axis=-1)
    return scales.astype(mx.float32), mins.astype(mx.float32)


def _q4_k(blocks: mx.array) -> Codes:
    scales, mins = _scales_and_mins(blocks[:, 4:16])
    codes = _nibbles(blocks[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    return Codes(codes, _half(blocks, 0) * scales, -(_half(blocks, 2) * mins))


def _q5_k(blocks: mx.array) -> Codes:
    scales, mins = _scales_and_mins(blocks[:, 4:16])
    low = _nibbles(blocks[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    top = _bit(blocks[:, None, 16:48], mx.arange(8, dtype=mx.uint8)[:, None])
    return Codes(low | (top << 4), _half(blocks, 0) * scales, -(_half(blocks, 2) * mins))


def _q2_k(blocks: mx.array) -> Codes:
    d, least = _half(blocks, 80), _half(blocks, 82)
    scales = blocks[:, :16]
    codes = _twos(blocks[:, 16:80])
    bias = -(least * (scales >> 4).astype(mx.float32))
    return Codes(codes, d * (scales & 15).astype(mx.float32), bias)


def _twos(packed: mx.array) -> mx.array:
    """64 bytes of codes of 2 bits: 16 groups of 16; each byte belongs to four groups."""
    shifts = mx.arange(0, 8, 2, dtype=mx.uint8)[:, None]
    return ((packed.reshape(-1, 2, 1, 32) >> shifts) & 3).reshape(-1, 16, 16)


def _q3_k(blocks: mx.array) -> Codes:
    top = _bit(blocks[:, None, :32], mx.arange(8, dtype=mx.uint8)[:, None]).reshape(-1, 16, 16)
    packed = blocks[:, 96:108]
    upper = (packed[:, None, 8:] >> mx.arange(0, 8, 2, dtype=mx.uint8)[:, None]) & 3
    scales = _nibbles(packed[:, :8]) | (upper.reshape(-1, 16) << 4)
    scale = _half(blocks, 108) * (scales.astype(mx.float32) - 32)
    return Codes(_twos(blocks[:, 32:96]) | (top << 2), scale, -4 * scale)


def _q6_k(blocks: mx.array) -> Codes:
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    shifts = mx.arange(0, 8, 2, dtype=mx.uint8)[:, None]
    top = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts) & 3
    scales = mx.contiguous(blocks[:, 192:208]).view(mx.int8).astype(mx.float32)
    scale = _half(blocks, 208) * scales
    return Codes((low | (top << 4)).reshape(-1, 16, 16), scale, -32 * scale)


def _spread(codes: mx.array) -> mx.array:
    """IQ4's codes replaced by their values + 128, so that scale and bias apply as elsewhere."""
    return mx.array([value + 128 for value in _NL], mx.uint8)[codes]


def _iq4_nl(blocks: mx.array) -> Codes:
    d = _half(blocks, 0)
    return Codes(_spread(_nibbles(blocks[:, None, 2:])), d, -128 * d)


def _iq4_xs(blocks: mx.array) -> Codes:
    low = blocks[:, 4:8]
    low = mx.stack([low & 15, low >> 4], axis=-1).reshape(-1, 8)
    upper = (blocks[:, 2:4, None] >> mx.arange(0, 8, 2, dtype=mx.uint8)) & 3
    scales = (low | (upper.reshape(-1, 8) << 4)).astype(mx.float32) - 32
    scale = _half(blocks, 0) * scales
    codes = _spread(_nibbles(blocks[:, 8:].reshape(-1, 8, 16)))
    return Codes(codes, scale, -128 * scale)


_DECODERS: dict[str, Callable[[mx.array], Codes]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
}

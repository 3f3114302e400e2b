"""Rotary position embedding, plain or scaled by YaRN; dense and MoE models share the code."""

from __future__ import annotations

import math
import struct
from functools import cache

import mlx.core as mx

from qwen3_mlx.config.rope import Rope, Yarn


class RotaryEmbedding:
    """Rotates the halves of each head by ``position / wavelength`` (half-split, as in GPT-NeoX).

    YaRN stretches the wavelengths and multiplies queries and keys by its attention factor;
    transformers multiplies its cos and sin tables by that factor.
    """

    def __init__(self, head_dim: int, rope: Rope) -> None:
        self.head_dim, self.rope = head_dim, rope
        self.mscale = rope.scaling.mscale if rope.scaling else 1.0

    def __call__(self, x: mx.array, offset: int | mx.array) -> mx.array:
        """Rotate ``x [B, H, L, D]``; offset: the first token's position, an int or ``[B]``."""
        if self.mscale != 1.0:
            x = x * mx.array(self.mscale, x.dtype)
        # Not `base`: MLX would compute its powers in float32; at position 131,072 that makes the
        # angles of the fast dimensions three times as wrong as rounding the angle itself does.
        return mx.fast.rope(
            x, self.head_dim, traditional=False, base=None, scale=1.0, offset=offset,
            freqs=wavelengths(self.head_dim, self.rope),
        )  # fmt: skip


@cache
def rotation_table(head_dim: int, rope: Rope) -> mx.array:
    """The kernels' table, ``[D/2 + 1]`` float32: radians per position, then YaRN's factor."""
    mscale = rope.scaling.mscale if rope.scaling else 1.0
    return mx.array([*speeds(head_dim, rope), mscale], mx.float32)


@cache
def wavelengths(head_dim: int, rope: Rope) -> mx.array:
    """The divisors of positions for `mx.fast.rope`, ``[D/2]`` float32: positions per radian.

    MLX takes their float32 reciprocals, so each divisor is the float32 number near the wavelength
    whose reciprocal is closest to the speed. The result is cached per argument.
    """
    return mx.array([_divisor(speed) for speed in speeds(head_dim, rope)], mx.float32)


def _divisor(speed: float) -> float:
    best = _float32(1 / speed)
    near = [best * (1 + step * 2.0**-24) for step in (-2, -1, 0, 1, 2)]
    return min(map(_float32, near), key=lambda wave: abs(_float32(1 / wave) - speed))


def _float32(value: float) -> float:
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded


def speeds(head_dim: int, rope: Rope) -> list[float]:
    """Radians per position of each pair of dimensions, in float64.

    YaRN (arXiv 2309.00071 §3.2) keeps the speed of fast dimensions, divides that of slow ones by
    the factor, and blends linearly between them.
    """
    plain = [rope.theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
    yarn = rope.scaling
    if yarn is None:
        return plain
    low, high = _correction_range(head_dim, rope.theta, yarn)
    blends = [min(max((i - low) / (high - low), 0.0), 1.0) for i in range(len(plain))]
    return [
        speed * (blend / yarn.factor + 1 - blend)
        for speed, blend in zip(plain, blends, strict=True)
    ]


def _correction_range(head_dim: int, theta: float, yarn: Yarn) -> tuple[float, float]:
    """The blend's first and last dimension: those that turn `beta_fast` and `beta_slow` times."""

    def dimension(turns: float) -> float:
        length = yarn.original_max_position_embeddings
        return head_dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(yarn.beta_fast), dimension(yarn.beta_slow)
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    return low, (high + 0.001 if low == high else high)  # 0.001: transformers' guard against 0/0

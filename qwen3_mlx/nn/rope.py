"""Rotary position embedding, plain or stretched by YaRN: one code for dense and MoE."""

from __future__ import annotations

import math
from functools import cache

import mlx.core as mx

from qwen3_mlx.config_parts import Rope, Yarn


class RotaryEmbedding:
    """Rotate halves of each head by ``position / wavelength`` (half-split, as in GPT-NeoX).

    With YaRN the wavelengths are stretched, and queries and keys are multiplied by its
    attention factor, as transformers multiplies its cos and sin tables.
    """

    def __init__(self, head_dim: int, rope: Rope) -> None:
        self.head_dim, self.rope = head_dim, rope
        self.mscale = rope.scaling.mscale if rope.scaling else 1.0

    def __call__(self, x: mx.array, offset: int | mx.array) -> mx.array:
        """Rotate ``x [B, H, L, D]``, whose first token stands at position `offset`."""
        if self.rope.scaling is None:
            base: float | None = self.rope.theta
            wavelengths = None
        else:
            base, wavelengths = None, yarn_wavelengths(self.head_dim, self.rope)
            x = x * mx.array(self.mscale, x.dtype)
        return mx.fast.rope(
            x, self.head_dim, traditional=False, base=base, scale=1.0, offset=offset,
            freqs=wavelengths,
        )  # fmt: skip


@cache
def rotation_table(head_dim: int, rope: Rope) -> mx.array:
    """What the kernels turn by, ``[D/2 + 1]`` float32: radians per position, then YaRN's factor."""
    if rope.scaling is not None:
        # MLX's tolist() may be nested or a number to mypy; one axis gives a list
        waves: list[float] = yarn_wavelengths(head_dim, rope).tolist()  # type: ignore[assignment]
        return mx.array([1 / wave for wave in waves] + [rope.scaling.mscale], mx.float32)
    speeds = [rope.theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
    return mx.array([*speeds, 1.0], mx.float32)


@cache
def yarn_wavelengths(head_dim: int, rope: Rope) -> mx.array:
    """YaRN's wavelengths ``[D/2]`` float32, in positions per radian (arXiv 2309.00071 §3.2).

    Short wavelengths stay, long ones are multiplied by the factor, and those between are
    blended linearly. Cached by all they depend on: the arguments.
    """
    yarn = rope.scaling
    assert yarn is not None
    low, high = _correction_range(head_dim, rope.theta, yarn)
    values = []
    for i in range(head_dim // 2):
        wavelength = rope.theta ** (2 * i / head_dim)
        stretched = min(max((i - low) / (high - low), 0.0), 1.0)
        inverse = stretched / (yarn.factor * wavelength) + (1 - stretched) / wavelength
        values.append(1 / inverse)
    return mx.array(values, mx.float32)


def _correction_range(head_dim: int, theta: float, yarn: Yarn) -> tuple[float, float]:
    """Where the blend begins and ends: dimensions turning `beta_fast` and `beta_slow` times."""

    def dimension(turns: float) -> float:
        length = yarn.original_max_position_embeddings
        return head_dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(yarn.beta_fast), dimension(yarn.beta_slow)
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    return low, (high + 0.001 if low == high else high)  # 0.001: transformers' guard against 0/0

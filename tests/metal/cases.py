"""Random inputs for the kernels' tests."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import pytest

from qwen3_mlx.metal.matrix import Matrix
from tests.metal.harness import KernelError

DTYPES = [mx.float32, mx.float16, mx.bfloat16]
PACKINGS = [(4, 32), (4, 64), (4, 128), (8, 32), (8, 64), (8, 128), (0, 0)]
SOME_PACKINGS = [(4, 64), (8, 32), (0, 0)]
EPS = 1e-6


def random(*shape: int, dtype: mx.Dtype = mx.float32, scale: float = 1.0) -> mx.array:
    return (mx.random.normal(shape) * scale).astype(dtype)


def gain(size: int, dtype: mx.Dtype) -> mx.array:
    """A norm's weight."""
    return (1 + mx.random.normal((size,)) / 4).astype(dtype)


def packed(packing: tuple[int, int], dtype: mx.Dtype, *shape: int) -> Matrix:
    """A random matrix of std 1/√K, packed in (bits, group)."""
    bits, group = packing
    weight = (mx.random.normal(shape) * shape[-1] ** -0.5).astype(dtype)
    if not bits:
        return Matrix(weight)
    return Matrix(*mx.quantize(weight, group, bits), bits=bits, group=group)


def columns(packing: tuple[int, int], wanted: int) -> int:
    """The smallest whole number of groups that is at least `wanted`."""
    group = packing[1] or 8
    return -(-wanted // group) * group


def assert_rejected(check: Callable[[], None]) -> None:
    """Fail unless `check` notices that something is broken: by its comparer, or by the machine."""
    with pytest.raises((AssertionError, KernelError)):
        check()

"""3, 5 and 6 bits unpacked by ours on a processor: to the bit what MLX gives."""

from __future__ import annotations

import mlx.core as mx
import pytest

from qwen3_mlx.config.quantization import QuantSpec
from qwen3_mlx.quantize.formats.mlx import unpack


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
def test_they_are_mlx_own_numbers(bits: int, group: int, dtype: mx.Dtype) -> None:
    packed = mx.quantize(mx.random.normal((3, 40, 256), key=mx.random.key(bits)), group, bits)
    packed = [packed[0], packed[1].astype(dtype), packed[2].astype(dtype)]
    floats = [array.astype(mx.float32) for array in packed[1:]]
    want = mx.dequantize(packed[0], *floats, group_size=group, bits=bits)
    assert mx.array_equal(unpack(packed, QuantSpec(bits, group)), want).item()

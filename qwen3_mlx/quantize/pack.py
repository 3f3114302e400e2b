"""Packs weights block by block, so only a few blocks are in memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.config.quantization import QuantSpec
from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.quantize.formats import Weight
from qwen3_mlx.quantize.formats.parts import Part, Reader

BLOCK = 4 * 2**20
"""Weights per block: large enough to hide Python's overhead, small compared with memory."""
AHEAD = 4
"""Blocks in progress: one running and one waiting on each of two streams."""
_UNSIGNED = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32}
MULTIPLE = 128
"""Rows per block are a multiple of this, so that no format's own block is cut."""


class _Streams(threading.local):
    """Two streams per thread; MLX's CPU backend runs each stream in its own thread."""

    def __init__(self) -> None:
        device = mx.default_device()
        self.pair = (mx.new_stream(device), mx.new_stream(device))


@cache
def _streams() -> _Streams:
    return _Streams()


def two_streams() -> tuple[mx.Stream, mx.Stream]:
    """This thread's two streams, to use two CPU cores."""
    return _streams().pair


def packed_blocks(
    weight: Weight, spec: QuantSpec | None, dtype: mx.Dtype
) -> Iterator[list[mx.array]]:
    """The weight in blocks of rows, each as packed arrays (weight, scales, biases), in order.

    dtype: of floats, scales and biases. Rows are packed independently, so the blocks together equal
    the packed whole weight.
    """
    return (arrays for _, arrays in packed_stream([(weight, spec)], dtype))


def packed_stream(
    work: Iterable[tuple[Weight, QuantSpec | None]], dtype: mx.Dtype, *, raw: bool = False
) -> Iterator[tuple[int, list[mx.array]]]:
    """The blocks of many weights in order, each with its weight's index.

    Both streams stay busy across weights. `raw` returns all arrays as unsigned integers of the same
    bits, for `bytes_of`: a view made later would have to wait for its own stream.
    """
    waiting: deque[_Block] = deque()
    turns = cycle(_streams().pair)
    for number, (weight, spec) in enumerate(work):
        weight.open_for_reading()
        for part, reader, start, stop in _blocks(weight, dtype):
            with mx.stream(next(turns)):
                rows = reader(start, stop)
                highest = _highest_bits(rows)
                arrays = pack(rows, spec)
                if raw:
                    arrays = [array.view(_UNSIGNED[array.dtype.size]) for array in arrays]
            mx.async_eval(*highest, *arrays)
            waiting.append(_Block(number, arrays, highest, part))
            if len(waiting) == AHEAD:
                yield waiting.popleft().ready(dtype)
    while waiting:
        yield waiting.popleft().ready(dtype)


def pack(rows: mx.array, spec: QuantSpec | None) -> list[mx.array]:
    """Pack rows with MLX: weight, scales and, in affine mode, biases; without a spec the rows."""
    if spec is None:
        return [rows]
    return list(mx.quantize(rows, spec.group_size, spec.bits, mode=spec.mode))


_INFINITY = {mx.float16: 0x7C00, mx.bfloat16: 0x7F80, mx.float32: 0x7F800000}
"""The bit pattern of infinity; those of NaN are larger. The sign bit makes them negative."""
_SIGNED = {2: mx.int16, 4: mx.int32}


def _highest_bits(rows: mx.array) -> tuple[mx.array, mx.array]:
    """The largest bit patterns as signed and unsigned integers, which reveal NaN and infinity.

    On a CPU this takes a twentieth of the packing's time; `mx.isfinite` takes half of it.
    """
    size = rows.dtype.size
    return rows.view(_SIGNED[size]).max(), rows.view(_UNSIGNED[size]).max()


@dataclass(frozen=True, slots=True)
class _Block:
    """A block that is being packed."""

    number: int
    arrays: list[mx.array]
    highest: tuple[mx.array, mx.array]
    part: Part

    def ready(self, dtype: mx.Dtype) -> tuple[int, list[mx.array]]:
        """Wait for the block. Raises `CheckpointError` for NaN or infinity."""
        mx.eval(self.highest, self.arrays)
        positive, negative = (bits.tolist() for bits in self.highest)
        assert isinstance(positive, int) and isinstance(negative, int)
        if positive >= _INFINITY[dtype] or negative >= _INFINITY[dtype] | 1 << 8 * dtype.size - 1:
            hint = "the source is damaged, or was saved after its training broke down"
            if dtype == mx.float16:
                hint = "float16 ends at 65,504: say --dtype bfloat16, or the source is damaged"
            name = self.part.tensors[0].name
            kind = str(dtype).rpartition(".")[2]
            raise CheckpointError(f"{name} holds NaN or infinity", got=f"as {kind}", hint=hint)
        return self.number, self.arrays


def _blocks(weight: Weight, dtype: mx.Dtype) -> Iterator[tuple[Part, Reader, int, int]]:
    for part in weight.parts:
        rows, columns = part.shape
        step = max(BLOCK // columns // MULTIPLE, 1) * MULTIPLE
        reader = part.open(dtype)
        for start in range(0, rows, step):
            yield part, reader, start, min(start + step, rows)


def bytes_of(array: mx.array) -> memoryview:
    """The bytes of an array, without a copy if it is evaluated and contiguous."""
    # mx.array supports the buffer protocol, which its annotations lack.
    data: Any = mx.contiguous(array.view(_UNSIGNED[array.dtype.size]))
    return memoryview(data).cast("B")


@contextmanager
def bounded_cache(limit: int) -> Iterator[None]:
    """Limit MLX's cache of freed memory to `limit` bytes in the block, and clear it afterwards."""
    before = mx.set_cache_limit(limit)
    try:
        yield
    finally:
        mx.set_cache_limit(before)
        mx.clear_cache()

"""Packing a weight block by block: what is resident is a few blocks, however large the weight."""

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
"""Weights in a block: large enough to hide Python, small enough to forget."""
AHEAD = 4
"""Blocks in work at once: two streams, and one block each waiting."""
_UNSIGNED = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32}
MULTIPLE = 128
"""Rows of a block are a multiple of this: no format's own block or packing is cut."""


class _Streams(threading.local):
    """Two streams for each thread: MLX's CPU backend works with one thread each."""

    def __init__(self) -> None:
        device = mx.default_device()
        self.pair = (mx.new_stream(device), mx.new_stream(device))


@cache
def _streams() -> _Streams:
    return _Streams()


def two_streams() -> tuple[mx.Stream, mx.Stream]:
    """Two streams of this thread's, which a processor's two cores work on."""
    return _streams().pair


def packed_blocks(
    weight: Weight, spec: QuantSpec | None, dtype: mx.Dtype
) -> Iterator[list[mx.array]]:
    """The weight in blocks of rows, each as its packed arrays (weight, scales, biases), in order.

    `dtype` is that of the floats, and of scales and biases. Rows are packed independently of each
    other, so the blocks together are what packing the whole weight at once would give.
    """
    return (arrays for _, arrays in packed_stream([(weight, spec)], dtype))


def packed_stream(
    work: Iterable[tuple[Weight, QuantSpec | None]], dtype: mx.Dtype, *, raw: bool = False
) -> Iterator[tuple[int, list[mx.array]]]:
    """The blocks of many weights, one behind the other, each with its weight's number.

    Both streams stay busy from one weight to the next. `raw` gives all arrays as unsigned integers
    of the same bits, for `bytes_of`: a view made later would have to wait for its own stream.
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
    """Rows as MLX packs them: weight, scales and, in affine mode, biases; floats stay one array."""
    if spec is None:
        return [rows]
    return list(mx.quantize(rows, spec.group_size, spec.bits, mode=spec.mode))


_INFINITY = {mx.float16: 0x7C00, mx.bfloat16: 0x7F80, mx.float32: 0x7F800000}
"""The bits of infinity; NaN's are above. With the sign's bit, those of the negative ones."""
_SIGNED = {2: mx.int16, 4: mx.int32}


def _highest_bits(rows: mx.array) -> tuple[mx.array, mx.array]:
    """The highest of all numbers as integers, signed and not, which tell NaN and infinity.

    On a processor this takes a twentieth of the packing's time; `mx.isfinite` takes half of it.
    """
    size = rows.dtype.size
    return rows.view(_SIGNED[size]).max(), rows.view(_UNSIGNED[size]).max()


@dataclass(frozen=True, slots=True)
class _Block:
    """Some rows under way."""

    number: int
    arrays: list[mx.array]
    highest: tuple[mx.array, mx.array]
    part: Part

    def ready(self, dtype: mx.Dtype) -> tuple[int, list[mx.array]]:
        """Wait for it. Raises `CheckpointError` for NaN and infinity, which no packing can hold."""
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
    """The bytes of an array in its order, without a copy where it is evaluated and contiguous."""
    # an array has the buffer protocol, which its annotations don't say
    data: Any = mx.contiguous(array.view(_UNSIGNED[array.dtype.size]))
    return memoryview(data).cast("B")


@contextmanager
def bounded_cache(limit: int) -> Iterator[None]:
    """Let MLX keep at most `limit` bytes of freed memory inside, and none afterwards."""
    before = mx.set_cache_limit(limit)
    try:
        yield
    finally:
        mx.set_cache_limit(before)
        mx.clear_cache()

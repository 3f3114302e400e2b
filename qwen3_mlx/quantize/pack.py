"""Packing a weight block by block: what is resident is a few blocks, however large the weight."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import cycle
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.config.quantization import QuantSpec
from qwen3_mlx.quantize.formats import Weight
from qwen3_mlx.quantize.formats.parts import Reader

BLOCK = 4 * 2**20
"""Weights in a block: large enough to hide Python, small enough to forget."""
AHEAD = 4
"""Blocks in work at once: two streams, and one block each waiting."""
_UNSIGNED = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32}
MULTIPLE = 128
"""Rows of a block are a multiple of this: no format's own block or packing is cut."""


@cache
def _streams() -> tuple[mx.Stream, mx.Stream]:
    """Two streams: MLX's CPU backend works with one thread each."""
    device = mx.default_device()
    return mx.new_stream(device), mx.new_stream(device)


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
    waiting: deque[tuple[int, list[mx.array]]] = deque()
    turns = cycle(_streams())
    for number, (weight, spec) in enumerate(work):
        for reader, start, stop in _blocks(weight, dtype):
            with mx.stream(next(turns)):
                arrays = pack(reader(start, stop), spec)
                if raw:
                    arrays = [array.view(_UNSIGNED[array.dtype.size]) for array in arrays]
            mx.async_eval(*arrays)
            waiting.append((number, arrays))
            if len(waiting) == AHEAD:
                yield _ready(waiting.popleft())
    while waiting:
        yield _ready(waiting.popleft())


def pack(rows: mx.array, spec: QuantSpec | None) -> list[mx.array]:
    """Rows as MLX packs them: weight, scales and, in affine mode, biases; floats stay one array."""
    if spec is None:
        return [rows]
    return list(mx.quantize(rows, spec.group_size, spec.bits, mode=spec.mode))


def _ready(block: tuple[int, list[mx.array]]) -> tuple[int, list[mx.array]]:
    mx.eval(block[1])
    return block


def _blocks(weight: Weight, dtype: mx.Dtype) -> Iterator[tuple[Reader, int, int]]:
    for part in weight.parts:
        rows, columns = part.shape
        step = max(BLOCK // columns // MULTIPLE, 1) * MULTIPLE
        reader = part.open(dtype)
        for start in range(0, rows, step):
            yield reader, start, min(start + step, rows)


def bytes_of(array: mx.array) -> memoryview:
    """The bytes of an evaluated array, without a copy where it is contiguous."""
    # an array has the buffer protocol, which its annotations don't say
    data: Any = array.view(_UNSIGNED[array.dtype.size])
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

"""bitsandbytes: 4-bit codes of a table (nf4, fp4) with a largest value a block, or int8 a row.

4 bits: ``weight`` has two codes a byte, the first in the upper half, all rows in one line; beside
it ``weight.absmax`` a block, ``weight.quant_map`` (the table) and ``weight.quant_state.…``, JSON
that says shape and block size. Where ``absmax`` is packed too (double quantization) there are
``nested_absmax`` and ``nested_quant_map``. ``w = table[code] * absmax[block]``.

8 bits: ``weight`` int8 and ``SCB``, each row's largest value: ``w = code * SCB / 127``.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.checkpoint.raw import read_rows, read_tensor
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.config.packing import Packing
from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.files import open_regular
from qwen3_mlx.quantize.formats.parts import Part, PlainPart, Reader, Tensors
from qwen3_mlx.quantize.formats.scaled import scaled_part

STATES = ("bitsandbytes__nf4", "bitsandbytes__fp4")


def part(tensors: Tensors, path: str, packing: Packing) -> Part | None:
    """The matrix at `path`, or None where the checkpoint has none. Raises `CheckpointError`."""
    weight = tensors.get(f"{path}.weight")
    if weight is None:
        return None
    if weight.dtype == "I8":
        scale = tensors.get(f"{path}.SCB") or tensors.get(f"{path}.weight.SCB")
        return replace(scaled_part(weight, scale), divisor=127.0)
    names = (f"{path}.weight.quant_state.{state}" for state in STATES)
    state = next((info for name in names if (info := tensors.get(name))), None)
    if state is None:
        return PlainPart(weight)
    kinds = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
    found = {kind: tensors.get(f"{path}.weight.{kind}") for kind in kinds}
    return _four_bits(path, weight, state, found)


def _four_bits(
    path: str, weight: TensorInfo, state: TensorInfo, found: dict[str, TensorInfo | None]
) -> BlockPart:
    said = _state(state)
    shape, size = said.get("shape"), said.get("blocksize")
    sound = isinstance(shape, list) and len(shape) == 2 and all(type(n) is int for n in shape)
    if not sound or type(size) is not int or size < 1 or min(shape or [0]) < 1:
        raise CheckpointError(state.name, got=said, expected="shape and blocksize")
    assert isinstance(shape, list)
    rows, columns = shape
    absmax, table = found["absmax"], found["quant_map"]
    blocks = -(-rows * columns // size)
    if absmax is None or table is None or table.shape != (16,) or math.prod(absmax.shape) != blocks:
        raise CheckpointError(f"{path}: absmax or quant_map", expected=f"{blocks} values and 16")
    if 2 * weight.nbytes != rows * columns or rows * columns % size or columns % 2:
        got = f"{weight.nbytes} bytes of codes"
        raise CheckpointError(weight.name, got=got, expected=f"{rows} x {columns} at 4 bits")
    nested, inner = _nested(path, state, said, found, blocks)
    return BlockPart(weight, absmax, table, state, nested, (rows, columns), size, inner)


def _nested(
    path: str,
    state: TensorInfo,
    said: dict[str, Any],
    found: dict[str, TensorInfo | None],
    blocks: int,
) -> tuple[tuple[TensorInfo, ...], tuple[int, float]]:
    """What unpacks an `absmax` that is packed itself: two tensors, block size and offset."""
    absmax, outer, table = found["absmax"], found["nested_absmax"], found["nested_quant_map"]
    if absmax is None or absmax.dtype != "U8":
        return (), (1, 0.0)
    size, offset = said.get("nested_blocksize"), said.get("nested_offset")
    if type(size) is not int or size < 1 or type(offset) not in (int, float):
        raise CheckpointError(state.name, got=said, expected="nested_blocksize and nested_offset")
    if outer is None or table is None or table.shape != (256,):
        raise CheckpointError(f"{path}: nested_absmax and nested_quant_map", expected="256 values")
    if math.prod(outer.shape) != -(-blocks // size):
        raise CheckpointError(outer.name, got=list(outer.shape), expected=-(-blocks // size))
    return (outer, table), (size, float(offset))  # type: ignore[arg-type]  # a number, see above


def _state(info: TensorInfo) -> dict[str, Any]:
    with open_regular(info.file) as stream:
        stream.seek(info.offset)
        raw = stream.read(min(info.nbytes, 65_536))
    try:
        said = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise CheckpointError(info.name, got=raw[:80], expected="JSON")
    return said


@dataclass(frozen=True, slots=True)
class BlockPart:
    """One matrix whose blocks run through the rows in one line."""

    weight: TensorInfo
    absmax: TensorInfo
    table: TensorInfo
    state: TensorInfo
    nested: tuple[TensorInfo, ...]
    shape: tuple[int, int]
    block: int
    inner: tuple[int, float]
    """Block size and offset of a packed `absmax`."""

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Codes, largest values, table, state, and what a packed `absmax` needs."""
        return self.weight, self.absmax, self.table, self.state, *self.nested

    def open(self, dtype: mx.Dtype) -> Reader:
        """Read codes row by row; the largest values (one for 64 weights) stay in memory."""
        columns, table = self.shape[1], read_tensor(self.table).astype(mx.float32)
        largest = self._largest()
        flat = replace(
            self.weight, dtype="U8", shape=(self.weight.nbytes // (columns // 2), columns // 2)
        )

        def read(start: int, stop: int) -> mx.array:
            both = read_rows(flat, start, stop)
            codes = mx.stack([both >> 4, both & 15], axis=-1).reshape(-1)
            first, last = start * columns // self.block, -(-stop * columns // self.block)
            skipped = start * columns - first * self.block
            scales = mx.repeat(largest[first:last], self.block)[skipped : skipped + codes.size]
            return (table[codes] * scales).astype(dtype).reshape(stop - start, columns)

        return read

    def _largest(self) -> mx.array:
        absmax = read_tensor(self.absmax).reshape(-1)
        if not self.nested:
            return absmax.astype(mx.float32)
        outer, table = (read_tensor(info).astype(mx.float32).reshape(-1) for info in self.nested)
        size, offset = self.inner
        return table[absmax] * mx.repeat(outer, size)[: absmax.size] + offset

"""bitsandbytes: 4-bit codes (nf4, fp4) with a maximum per block, or int8 with one per row.

4 bits: ``weight`` has two codes a byte, the first in the upper half, all rows in one line; beside
it ``weight.absmax`` a block, ``weight.quant_map`` (the table) and ``weight.quant_state.…``, JSON
that says shape and block size. Where ``absmax`` is packed too (double quantization) there are
``nested_absmax`` and ``nested_quant_map``. ``w = table[code] * absmax[block]``.

8 bits: ``weight`` int8 and ``SCB``, each row's largest value: ``w = code * SCB / 127``.

transformers 5 holds the experts of a layer in one array, which `replace_parameter_4bit` packs in
one line as well: ``experts.gate_up_proj`` stands for a shape ``[E, 2 I, H]``, and so has no
``.weight`` behind its name. Without that call they stay floats.
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
from qwen3_mlx.quantize.formats.parts import Part, PlainPart, Reader, Tensors, require_floats
from qwen3_mlx.quantize.formats.scaled import scaled_part

STATES = ("bitsandbytes__nf4", "bitsandbytes__fp4")


def part(tensors: Tensors, path: str, packing: Packing) -> Part | None:
    """The matrix at `path`, or None where the checkpoint has none. Raises `CheckpointError`."""
    weight = tensors.get(f"{path}.weight")
    if weight is None:
        return _experts(tensors, path)
    if weight.dtype == "I8":
        scale = tensors.get(f"{path}.SCB") or tensors.get(f"{path}.weight.SCB")
        return replace(scaled_part(weight, scale), divisor=127.0)
    found = _four_bits(tensors, f"{path}.weight")
    return found if found is not None else PlainPart(weight)


def _experts(tensors: Tensors, path: str) -> Part | None:
    """The stack of experts at `path`, from the layer's shared array; None without one."""
    block, stacked, projection = path.partition(".switch_mlp.")
    if not stacked:
        return None
    if projection == "down_proj":
        return _four_bits(tensors, f"{block}.experts.down_proj")
    both = _four_bits(tensors, f"{block}.experts.gate_up_proj")
    if both is None:
        return None
    half, odd = divmod(both.rows_of_one, 2)
    if odd:
        got = f"{both.rows_of_one} rows"
        raise CheckpointError(both.state.name, got=got, expected="as many of gate as of up")
    return ShareOfRows(both, 2 * half, half if projection == "up_proj" else 0, half)


def _four_bits(tensors: Tensors, name: str) -> BlockPart | None:
    """The 4-bit matrix, or stacked experts, stored as `name`; None if it isn't in 4 bits."""
    weight = tensors.get(name)
    states = (tensors.get(f"{name}.quant_state.{state}") for state in STATES)
    state = next((info for info in states if info is not None), None)
    if weight is None or state is None:
        return None
    kinds = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
    found = {kind: tensors.get(f"{name}.{kind}") for kind in kinds}
    values = _state(state)
    shape, size = values.get("shape"), values.get("blocksize")
    sound = isinstance(shape, list) and all(type(n) is int and 0 < n < 2**31 for n in shape)
    sound = sound and len(shape or ()) in (2, 3) and type(size) is int and size > 0
    if not sound:
        raise CheckpointError(state.name, got=values, expected="shape and blocksize")
    assert isinstance(shape, list) and isinstance(size, int)
    rows, columns = math.prod(shape[:-1]), shape[-1]
    absmax, table = found["absmax"], found["quant_map"]
    blocks = -(-rows * columns // size)
    if absmax is None or table is None or table.shape != (16,) or math.prod(absmax.shape) != blocks:
        raise CheckpointError(f"{name}: absmax or quant_map", expected=f"{blocks} values and 16")
    if 2 * weight.nbytes != rows * columns or rows * columns % size or columns % 2:
        got = f"{weight.nbytes} bytes of codes"
        raise CheckpointError(weight.name, got=got, expected=f"{rows} x {columns} at 4 bits")
    nested, inner = _nested(name, state, values, found, blocks)
    require_floats(table, *(nested or [absmax]))
    whole = (rows, columns)
    return BlockPart(weight, absmax, table, state, nested, whole, size, inner, shape[-2])


def _nested(
    name: str,
    state: TensorInfo,
    values: dict[str, Any],
    found: dict[str, TensorInfo | None],
    blocks: int,
) -> tuple[tuple[TensorInfo, ...], tuple[int, float]]:
    """The tensors, block size and offset that unpack a quantized `absmax`; empty otherwise."""
    absmax, outer, table = found["absmax"], found["nested_absmax"], found["nested_quant_map"]
    if absmax is None or absmax.dtype != "U8":
        return (), (1, 0.0)
    size, offset = values.get("nested_blocksize"), values.get("nested_offset")
    if type(size) is not int or size < 1 or type(offset) not in (int, float):
        raise CheckpointError(state.name, got=values, expected="nested_blocksize and nested_offset")
    if outer is None or table is None or table.shape != (256,):
        raise CheckpointError(f"{name}: nested_absmax and nested_quant_map", expected="256 values")
    if math.prod(outer.shape) != -(-blocks // size):
        raise CheckpointError(outer.name, got=list(outer.shape), expected=-(-blocks // size))
    return (outer, table), (size, float(offset))  # type: ignore[arg-type]  # a number, see above


def _state(info: TensorInfo) -> dict[str, Any]:
    with open_regular(info.file) as stream:
        stream.seek(info.offset)
        raw = stream.read(min(info.nbytes, 65_536))
    try:
        values = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise CheckpointError(info.name, got=raw[:80], expected="JSON")
    return values


@dataclass(frozen=True, slots=True)
class BlockPart:
    """A matrix in 4 bits whose blocks continue across rows."""

    weight: TensorInfo
    absmax: TensorInfo
    table: TensorInfo
    state: TensorInfo
    nested: tuple[TensorInfo, ...]
    shape: tuple[int, int]
    block: int
    inner: tuple[int, float]
    """Block size and offset of a packed `absmax`."""
    rows_of_one: int
    """Rows of one expert's matrix, or of the only matrix."""

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Codes, maxima, table, state, and the tensors of a quantized `absmax`."""
        return self.weight, self.absmax, self.table, self.state, *self.nested

    def open(self, dtype: mx.Dtype) -> Reader:
        """Read codes row by row; the maxima (one per 64 weights) stay in memory."""
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


@dataclass(frozen=True, slots=True)
class ShareOfRows:
    """From every `period` rows of a matrix, `count` rows from `first`: gate's or up's."""

    whole: BlockPart
    period: int
    first: int
    count: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows of all experts, and columns."""
        rows, columns = self.whole.shape
        return rows // self.period * self.count, columns

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """The tensors of the whole matrix."""
        return self.whole.tensors

    def open(self, dtype: mx.Dtype) -> Reader:
        """Read the rows of one expert after another."""
        read_whole = self.whole.open(dtype)

        def read(start: int, stop: int) -> mx.array:
            pieces = []
            for expert in range(start // self.count, -(-stop // self.count)):
                low, high = (
                    min(max(row - expert * self.count, 0), self.count) for row in (start, stop)
                )
                begin = expert * self.period + self.first
                pieces.append(read_whole(begin + low, begin + high))
            return pieces[0] if len(pieces) == 1 else mx.concatenate(pieces)

        return read

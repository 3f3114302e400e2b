"""Reads GGUF's tensors in blocks of rows, dense or in MLX's packed format."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.checkpoint.gguf_blocks import Codes, decode
from qwen3_mlx.checkpoint.raw import FLOATS, read_rows
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.gguf import describe
from qwen3_mlx.gguf.header import BLOCKS, GgufTensor

_STEP = 2**22
"""Weights unpacked at a time."""


def read_dense(tensor: TensorInfo | GgufTensor, start: int, stop: int, kind: str) -> mx.array:
    """Rows `start` to `stop` of a stored tensor of type `kind`, float32 ``[n, columns]``."""
    if kind in FLOATS:
        return read_rows(_as_stored(tensor, kind), start, stop).astype(mx.float32)
    return _codes(tensor, start, stop, kind).dense().reshape(stop - start, -1)


def _codes(tensor: TensorInfo | GgufTensor, start: int, stop: int, kind: str) -> Codes:
    rows = math.prod(tensor.shape[:-1])
    lines = replace(_as_stored(tensor, "U8"), shape=(rows, tensor.nbytes // rows))
    blocks = read_rows(lines, start, stop).reshape(-1, BLOCKS[kind][1])
    return decode(kind, blocks)


def _as_stored(tensor: TensorInfo | GgufTensor, dtype: str) -> TensorInfo:
    return TensorInfo(tensor.name, dtype, tensor.shape, tensor.nbytes, tensor.file, tensor.offset)


class GgufReader:
    """Reads the tensors that `loaded_tensors` lists.

    Weight, scales and biases of one tensor are made together, and held until they are read or the
    next tensor's are made.
    """

    def __init__(self) -> None:
        self._ready: tuple[GgufTensor | None, dict[str, mx.array]] = (None, {})

    def read(self, info: TensorInfo) -> mx.array:
        """The array, evaluated. Raises `CheckpointError` for NaN and infinity."""
        tensor = info.made_from
        assert tensor is not None
        if tensor.type in FLOATS:
            return _own_part(info, _floats(tensor, FLOATS[info.dtype]))
        kind = info.name.rpartition(".")[2]
        if self._ready[0] != tensor or kind not in self._ready[1]:
            self._ready = tensor, _packed(tensor)
        return _own_part(info, self._ready[1].pop(kind))


def _own_part(info: TensorInfo, whole: mx.array) -> mx.array:
    """The array in its shape, or this machine's part of it."""
    if (part := info.part) is None:
        return whole.reshape(info.shape)
    shape = list(info.shape)
    shape[part.axis] = part.of
    index = mx.arange(part.start, part.start + info.shape[part.axis])
    part_array = mx.take(whole.reshape(shape), index, axis=part.axis)
    mx.eval(part_array)  # and the rest is free
    return part_array


def _pieces(tensor: GgufTensor) -> Iterator[tuple[int, int]]:
    rows, columns = math.prod(tensor.shape[:-1]), tensor.shape[-1]
    step = max(_STEP // columns, 1)
    return ((start, min(start + step, rows)) for start in range(0, rows, step))


def _floats(tensor: GgufTensor, dtype: mx.Dtype) -> mx.array:
    rows = []
    for start, stop in _pieces(tensor):
        rows.append(read_dense(tensor, start, stop, tensor.type).astype(dtype))
        mx.eval(rows[-1])
    return mx.concatenate(rows).reshape(tensor.shape)


def _packed(tensor: GgufTensor) -> dict[str, mx.array]:
    """``weight``, ``scales`` and ``biases`` of a packed tensor; experts' rows are joined."""
    bits, found = describe.bits_of(tensor.type), []
    for start, stop in _pieces(tensor):
        codes = _codes(tensor, start, stop, tensor.type)
        if tensor.type in describe.EXACT_BITS:
            lines = (array.reshape(stop - start, -1) for array in codes)
            words, scales, biases = lines
            arrays = [
                pack_words(words, bits),
                scales.astype(mx.bfloat16),
                biases.astype(mx.bfloat16),
            ]
        else:
            rows = codes.dense().reshape(stop - start, -1).astype(mx.bfloat16)
            arrays = list(mx.quantize(rows, describe.GROUP, bits))
        sound = mx.isfinite(arrays[1]).all() & mx.isfinite(arrays[2]).all()
        mx.eval(sound, *arrays)
        if not sound.item():
            hint = "the file is damaged: fetch it again"
            raise CheckpointError(f"{tensor.name} holds NaN or infinity", hint=hint)
        found.append(arrays)
    parts = [mx.concatenate(list(arrays)) for arrays in zip(*found, strict=True)]
    mx.eval(parts)
    return dict(zip(("weight", "scales", "biases"), parts, strict=True))


def pack_words(codes: mx.array, bits: int) -> mx.array:
    """Pack uint8 codes ``[n, columns]`` as MLX does: a bit string per row, lowest bits first."""
    if bits == 4:
        codes = codes[:, ::2] | (codes[:, 1::2] << 4)
    if bits in (4, 8):
        return mx.contiguous(codes).view(mx.uint32)
    lines = (codes[..., None] >> mx.arange(bits, dtype=mx.uint8)) & 1
    lines = lines.reshape(codes.shape[0], -1, 8) << mx.arange(8, dtype=mx.uint8)
    return lines.sum(-1).astype(mx.uint8).view(mx.uint32)

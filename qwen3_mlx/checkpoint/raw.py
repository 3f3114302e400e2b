"""Reads a tensor's rows from a file, without loading the whole file."""

from __future__ import annotations

import math
import os
import threading
from typing import Any, Literal

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.files import open_regular

# safetensors' dtype -> (buffer protocol's format, the MLX dtype as which the bits are viewed)
_DTYPES: dict[str, tuple[Literal["B", "H", "I"], mx.Dtype]] = {
    "U8": ("B", mx.uint8),
    "I8": ("B", mx.int8),
    "F8_E4M3": ("B", mx.uint8),
    "F16": ("H", mx.float16),
    "BF16": ("H", mx.bfloat16),
    "F32": ("I", mx.float32),
    "I32": ("I", mx.int32),
    "U32": ("I", mx.uint32),
}
_REUSED = 2**24
FLOATS = {"F16": mx.float16, "BF16": mx.bfloat16, "F32": mx.float32}
NAMES = {
    mx.float16: "F16",
    mx.bfloat16: "BF16",
    mx.float32: "F32",
    mx.uint32: "U32",
    mx.uint8: "U8",
}


def read_rows(info: TensorInfo, start: int, stop: int) -> mx.array:
    """Rows `start` to `stop` of a tensor with its leading axes flattened: ``[n, last axis]``.

    A vector is one row, a single number one of one. FP8 is returned as uint8 codes. Raises
    `CheckpointError`.
    """
    width = info.shape[-1] if info.shape else 1
    size = info.nbytes * width // max(math.prod(info.shape), 1)
    return _array(info, info.offset + start * size, (stop - start) * size).reshape(-1, width)


def read_tensor(info: TensorInfo) -> mx.array:
    """A whole tensor in its own shape. Raises `CheckpointError`."""
    return _array(info, info.offset, info.nbytes).reshape(info.shape)


def _array(info: TensorInfo, offset: int, size: int) -> mx.array:
    if info.dtype not in _DTYPES:
        raise CheckpointError(f"tensor {info.name}", got=info.dtype, expected=", ".join(_DTYPES))
    code, dtype = _DTYPES[info.dtype]
    view = _buffer(size)
    _read(info, offset, view)
    data: Any = view.cast(code)
    array = mx.array(data)  # a copy: MLX owns its memory
    return array if array.dtype == dtype else array.view(dtype)


_scratch = threading.local()


def _buffer(size: int) -> memoryview:
    """A buffer to read into, reused because touching new pages costs more than reading."""
    if size > _REUSED:
        return memoryview(bytearray(size))
    if not hasattr(_scratch, "data"):
        _scratch.data = bytearray(_REUSED)
    return memoryview(_scratch.data)[:size]


def _read(info: TensorInfo, offset: int, view: memoryview) -> None:
    size, done = len(view), 0
    try:
        with open_regular(info.file) as stream:
            stream.seek(offset)
            while done < size:
                count = stream.readinto(view[done:])
                if not count:
                    break
                done += count
    except OSError as error:
        what = f"{info.file.name} can't be read"
        raise CheckpointError(what, got=os.strerror(error.errno or 0)) from None
    if done < size:
        raise CheckpointError(
            f"{info.file.name} is cut short",
            got=f"{done} of {size} bytes of {info.name}",
            hint="the file changed while it was read; fetch it again",
        )

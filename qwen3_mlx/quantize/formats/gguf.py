"""GGUF: llama.cpp's blocks with their own scales; experts are stacked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.checkpoint.gguf_read import read_dense
from qwen3_mlx.checkpoint.headers import weight_files
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.gguf.folder import is_gguf
from qwen3_mlx.quantize.formats.parts import Part, Reader, Tensors


def files(directory: Path) -> list[Path]:
    """The GGUF files of the model folder `directory`; empty for other formats."""
    found = [directory / name for name in weight_files(directory).names]
    return found if found and is_gguf(found[0]) else []


def part(tensors: Tensors, path: str) -> Part | None:
    """The matrix at `path`, or None where the checkpoint has none."""
    info = tensors.get(f"{path}.weight")
    return None if info is None else GgufPart(info)


@dataclass(frozen=True, slots=True)
class GgufPart:
    """A matrix, or experts stacked to one tall matrix, in any of GGUF's types."""

    info: TensorInfo

    @property
    def shape(self) -> tuple[int, int]:
        """Rows (experts times outputs) and columns of the dense matrix."""
        return math.prod(self.info.shape[:-1]), self.info.shape[-1]

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """The tensor itself."""
        return (self.info,)

    def open(self, dtype: mx.Dtype) -> Reader:
        """Unpack rows in float32, and round once."""

        def read(start: int, stop: int) -> mx.array:
            return read_dense(self.info, start, stop, self.info.dtype).astype(dtype)

        return read

"""A GGUF model's tensors, as stored and as the loader converts them for MLX."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.gguf import describe
from qwen3_mlx.gguf.header import GgufTensor
from qwen3_mlx.gguf.model import read_model
from qwen3_mlx.gguf.names import module_path


def stored_tensors(files: Sequence[Path]) -> dict[str, TensorInfo]:
    """The stored tensors by Qwen's names (else llama.cpp's); dtypes are llama.cpp's."""
    found = {}
    for tensor in read_model(files[0]).tensors:
        info = TensorInfo(_name(tensor), tensor.type, *_place(tensor))
        found[info.name] = info
    return found


def loaded_tensors(files: Sequence[Path]) -> dict[str, TensorInfo]:
    """The tensors that the loader makes: packed weights with scales and biases, and floats."""
    found = {}
    for tensor, kind, dtype, shape in describe.as_loaded(read_model(files[0]).tensors):
        name = f"{_name(tensor).removesuffix('.weight')}.{kind}"
        nbytes = math.prod(shape) * {"F16": 2, "BF16": 2}.get(dtype, 4)
        found[name] = TensorInfo(
            name, dtype, shape, nbytes, tensor.file, tensor.offset, made_from=tensor
        )
    return found


def _name(tensor: GgufTensor) -> str:
    path = module_path(tensor.name)
    return tensor.name if path is None else f"{path}.weight"


def _place(tensor: GgufTensor) -> tuple[tuple[int, ...], int, Path, int]:
    return tensor.shape, tensor.nbytes, tensor.file, tensor.offset

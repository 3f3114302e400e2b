"""Opens a checkpoint of any format for the converter."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.checkpoint.gguf_tensors import stored_tensors
from qwen3_mlx.checkpoint.headers import checkpoint_tensors
from qwen3_mlx.checkpoint.match import (
    difference_error,
    find_parameter,
    is_unused,
    named_tensors,
    with_head_or_without,
)
from qwen3_mlx.checkpoint.raw import FLOATS
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.config import Qwen3Config, packing
from qwen3_mlx.config.matrices import weight_shapes
from qwen3_mlx.files import open_regular, read_config
from qwen3_mlx.quantize.formats import awq, bitsandbytes, compressed, fp8, gguf, gptq, mlx
from qwen3_mlx.quantize.formats.parts import Part, PlainPart, Tensors

_SAMPLE = 256

Finder = Callable[[str], Part | None]
"""Returns the matrix at a module path, or None if the checkpoint lacks it."""


@dataclass(frozen=True, slots=True)
class Weight:
    """One parameter of the network: a matrix, a vector, or a stack of experts."""

    path: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    """One part, or one per expert."""
    fetch: Callable[[], None] | None = field(default=None, compare=False)
    """Fetches its files from the hub; None if they are on this machine."""

    def open_for_reading(self) -> None:
        """Fetch its files if necessary; call it before reading the parts. Raises `HubError`."""
        if self.fetch is not None:
            self.fetch()

    @property
    def nbytes(self) -> int:
        """Bytes in the source."""
        return sum(info.nbytes for part in self.parts for info in part.tensors)


@dataclass(frozen=True, slots=True)
class Source:
    """An opened checkpoint: config, format, and weights in the network's order."""

    directory: Path
    values: dict[str, Any]
    """The parsed config.json."""
    config: Qwen3Config
    format: str
    weights: tuple[Weight, ...]
    dtype: mx.Dtype | None
    """The dtype of its plain floats; None if they differ."""
    adapter: str = ""
    """The digest of a fused adapter, if any."""
    identity: str = ""
    """A digest of its bytes, if they are on the hub and can't be sampled."""

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        return sum(weight.nbytes for weight in self.weights)

    def dtypes(self) -> str:
        """The dtypes of its plain floats, each with an example, as text."""
        found = {info.dtype: info.name for info in _plain_infos(self.weights)}
        return ", ".join(f"{dtype} ({name})" for dtype, name in sorted(found.items()))

    def fingerprint(self) -> str:
        """A digest of the config and of each tensor's name, shape and a sample."""
        digest = hashlib.sha256(json.dumps(self.values, sort_keys=True).encode())
        digest.update(self.adapter.encode())
        digest.update(self.identity.encode())
        if self.identity:
            return digest.hexdigest()
        infos = (info for weight in self.weights for part in weight.parts for info in part.tensors)
        for info in sorted(infos, key=lambda info: (info.file.name, info.offset)):
            digest.update(f"{info.name} {info.dtype} {info.shape}\n".encode())
            with open_regular(info.file) as stream:
                stream.seek(info.offset + max(info.nbytes // 2 - _SAMPLE // 2, 0))
                digest.update(stream.read(min(_SAMPLE, info.nbytes)))
        return digest.hexdigest()


def open_source(directory: str | Path) -> Source:
    """Read config.json and all headers of a checkpoint; no weight is read.

    Raises `ConfigError` for an unsupported quantization, `CheckpointError` for missing, surplus or
    mis-shaped tensors, listing the first five.
    """
    directory = Path(directory)
    values = read_config(directory)
    gguf_model = gguf.files(directory)
    if gguf_model:
        values = {key: value for key, value in values.items() if key != "quantization"}
        tensors, name = stored_tensors(gguf_model), "gguf"
        finder: Finder = partial(gguf.part, tensors)
    else:
        tensors = named_tensors(checkpoint_tensors(directory))
        name, finder, tensors = _format(values, tensors)
    config = Qwen3Config.from_dict({k: v for k, v in values.items() if k != "quantization_config"})
    config = with_head_or_without(config, tensors, directory)
    weights, missing, faults = [], [], []
    used: set[TensorInfo] = set()
    for path, shape in weight_shapes(config):
        parts = find_parameter(finder, path, config.num_experts)
        used |= {info for part in parts for info in part.tensors}
        if not parts:
            missing.append(f"{path}.weight {list(shape)}")
        elif fault := _fault(path, shape, parts):
            faults.append(fault)
        else:
            weights.append(Weight(path, shape, parts))
    left = {stored for stored, info in tensors.items() if info not in used}
    unused = (s for s in tensors if s in left and not is_unused(s, config))
    if name in _READERS:
        unused = (s for s in unused if not _ACTIVATIONS.fullmatch(s))
    surplus = list(dict.fromkeys(tensors[name].name for name in unused))
    if missing or faults or surplus:
        raise difference_error(missing, faults, surplus, name if name in _READERS else "")
    dtype = getattr(mx, values["torch_dtype"]) if gguf_model else _common_dtype(weights)
    return Source(directory, values, config, name, tuple(weights), dtype)


_READERS = {
    "fp8": fp8.part,
    "awq": awq.part,
    "gptq": gptq.part,
    "compressed-tensors": compressed.part,
    "bitsandbytes": bitsandbytes.part,
}


def _format(values: dict[str, Any], tensors: Tensors) -> tuple[str, Finder, Tensors]:
    """The checkpoint's format, a function that finds its matrices, and its tensors."""
    foreign = values.get("quantization_config") or {}
    is_own = values.get("quantization") or not foreign or not isinstance(foreign, dict)
    found = None if is_own else packing.read(foreign)
    if found is None:
        quantization = Qwen3Config.from_dict(values).quantization
        if quantization is None:
            return "plain", partial(_plain_part, tensors), tensors
        return "mlx", lambda path: mlx.part(tensors, path, quantization), tensors
    read = _READERS[found.method]
    if found.method == "fp8":
        tensors = fp8.one_by_one(tensors, found)
    return found.method, lambda path: read(tensors, path, found), tensors


def _plain_part(tensors: Tensors, path: str) -> Part | None:
    info = tensors.get(f"{path}.weight")
    return PlainPart(info) if info else None


def _fault(path: str, shape: tuple[int, ...], parts: tuple[Part, ...]) -> str | None:
    rows, columns = math.prod(shape[:-1]), shape[-1]
    if len(parts) > 1 and len(parts) != shape[0]:
        return f"{path} has {len(parts)} experts, expected {shape[0]}"
    each = rows // len(parts)
    odd = next((part for part in parts if part.shape != (each, columns)), None)
    if odd is not None:
        return f"{odd.tensors[0].name} is {list(odd.shape)}, expected {[each, columns]}"
    plain = (part.info for part in parts if isinstance(part, PlainPart))
    wrong = next((info for info in plain if info.dtype not in FLOATS), None)
    return f"{wrong.name} has dtype {wrong.dtype}, expected {', '.join(FLOATS)}" if wrong else None


# Scales of activations and of the KV cache, which don't affect the weights.
_ACTIVATIONS = re.compile(
    r".*\.((input|output|[qkv]|kv|prob|attn)_scale|(input|[qkv])_global_scale"
    r"|(input|output)_(zero_point|activation_scale)|activation_scale|weight_format)"
)


def _common_dtype(weights: Sequence[Weight]) -> mx.Dtype | None:
    found = {FLOATS[i.dtype] for i in _plain_infos(weights) if i.dtype in FLOATS}
    return found.pop() if len(found) == 1 else None


def _plain_infos(weights: Sequence[Weight]) -> Iterator[TensorInfo]:
    for weight in weights:
        for part in weight.parts:
            if isinstance(part, PlainPart):
                yield part.info

"""The memory inequality of a model, from config and headers alone.

    weights + KV(context) + prefill scratch + runtime <= available

A GB is 10**9 bytes. Nothing here reads a weight or needs MLX.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.config.matrices import weight_shapes
from qwen3_mlx.config.quantization import QuantSpec
from qwen3_mlx.config.share import Share
from qwen3_mlx.errors import OptionError, gb
from qwen3_mlx.fit import prefill_peak
from qwen3_mlx.fit.kv_cache import kv_bytes_per_token
from qwen3_mlx.fit.machine import Machine

PREFILL_CHUNK = 2048
RUNTIME_BYTES = 300_000_000
"""Python, MLX, tokenizer and terminal: 135 MB measured on Linux, plus room for Metal's heaps."""
FLOATS = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}


class TensorLike(Protocol):
    """A tensor's header."""

    @property
    def dtype(self) -> str:
        """safetensors' name of the dtype, such as ``BF16``."""

    @property
    def nbytes(self) -> int:
        """Stored bytes."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The sizes of the weights: packed integers in bytes, and the number of floats."""

    stored_bytes: int
    packed_bytes: int
    floats: int

    def resident_bytes(self, float_bytes: int | None = None) -> int:
        """Bytes in memory; `float_bytes` is the floats' width there (None: as stored)."""
        if float_bytes is None:
            return self.stored_bytes
        return self.packed_bytes + self.floats * float_bytes


def weights_from_headers(tensors: Iterable[TensorLike]) -> Weights:
    """The sizes of a checkpoint's weights by their headers."""
    stored = packed = floats = 0
    for tensor in tensors:
        stored += tensor.nbytes
        if width := FLOATS.get(tensor.dtype):
            floats += tensor.nbytes // width
        else:
            packed += tensor.nbytes
    return Weights(stored, packed, floats)


def weights_from_config(config: Qwen3Config) -> Weights:
    """The sizes computed from the config: bf16, or packed by its quantization."""
    quantization = config.quantization
    return weights_packed(config, quantization.spec if quantization else lambda _path: None)


def weights_of_share(config: Qwen3Config, share: Share) -> Weights:
    """The sizes of one machine's share. Raises `OptionError` if the model can't be split so."""
    quantization = share.config(config).quantization
    spec = quantization.spec if quantization else lambda _path: None
    return _counted(share.weight_shapes(config), spec)


def weights_packed(config: Qwen3Config, spec: Callable[[str], QuantSpec | None]) -> Weights:
    """The sizes if every matrix were packed by `spec(path)`; None means bf16."""
    return _counted(weight_shapes(config), spec)


def _counted(
    shapes: Iterable[tuple[str, tuple[int, ...]]], spec: Callable[[str], QuantSpec | None]
) -> Weights:
    packed = floats = 0
    for path, shape in shapes:
        bytes_packed, count = _storage(shape, spec(path) if len(shape) > 1 else None)
        packed, floats = packed + bytes_packed, floats + count
    return Weights(packed + 2 * floats, packed, floats)


def _storage(shape: tuple[int, ...], spec: QuantSpec | None) -> tuple[int, int]:
    """Bytes of packed integers, and number of floats, of one weight."""
    count = math.prod(shape)
    if spec is None or shape[-1] % spec.group_size:
        return 0, count
    groups = count // spec.group_size
    if spec.mode == "affine":
        return count * spec.bits // 8, 2 * groups  # a scale and a bias per group
    return count * spec.bits // 8 + groups, 0  # mx and nv formats: a scale of one byte per group


def ways_to_free_memory(
    config: Qwen3Config, tokens: int, kv_bits: int | None, float_bytes: int = 2
) -> str:
    """A hint with options that free memory, for a cache of `tokens`."""
    sizes = {bits: kv_bytes_per_token(config, bits, float_bytes) for bits in (8, 4, kv_bits)}
    now = gb(tokens * sizes[kv_bits])
    found = [
        f"--kv-bits {bits} ({gb(tokens * sizes[bits])} of keys and values instead of {now})"
        for bits in (8, 4)
        if bits < (kv_bits or 16)
    ]
    return ", ".join([*found, "a shorter conversation (/clear)", "a smaller model (/model)"])


@dataclass(frozen=True, slots=True)
class Fit:
    """The inequality's terms in bytes."""

    weight_bytes: int
    kv_bytes: int
    scratch_bytes: int
    runtime_bytes: int
    available_bytes: int
    context: int

    @property
    def required_bytes(self) -> int:
        """The left side of the inequality."""
        return self.weight_bytes + self.kv_bytes + self.scratch_bytes + self.runtime_bytes

    @property
    def fits(self) -> bool:
        """Whether the inequality holds."""
        return self.required_bytes <= self.available_bytes

    @property
    def equation(self) -> str:
        """``4.6 GB weights + 0.6 GB KV at 4,096 tokens + … = 5.8 GB ≤ 11.5 GB available: fits``."""
        sign, verdict = ("≤", "fits") if self.fits else (">", "does not fit")
        return (
            f"{gb(self.weight_bytes)} weights + {gb(self.kv_bytes)} KV at {self.context:,} tokens"
            f" + {gb(self.scratch_bytes)} prefill + {gb(self.runtime_bytes)} runtime"
            f" = {gb(self.required_bytes)} {sign} {gb(self.available_bytes)} available: {verdict}"
        )


def fit(
    config: Qwen3Config,
    weights: Weights,
    machine: Machine,
    context: int,
    kv_bits: int | None = None,
    chunk: int = PREFILL_CHUNK,
) -> Fit:
    """The inequality for `context` tokens, prefilled in chunks of `chunk`.

    Where no more than those were asked for, `config` is that of `Qwen3Config.for_context`.
    Raises `OptionError` or `ContextError`.
    """
    if context < 1:
        raise OptionError("context", got=context, expected="1 or more tokens")
    config.reaching(context)  # raises beyond YaRN's reach
    if chunk < 1:
        raise OptionError("prefill chunk", got=chunk, expected="at least 1")
    cache, work = prefill_peak.peak_bytes(config, machine, context, chunk, kv_bits)
    return Fit(
        weight_bytes=weights.resident_bytes(machine.float_bytes),
        kv_bytes=cache,
        scratch_bytes=work,
        runtime_bytes=RUNTIME_BYTES,
        available_bytes=machine.available_bytes,
        context=context,
    )


def largest_context(
    config: Qwen3Config, weights: Weights, machine: Machine, kv_bits: int | None = None
) -> int:
    """The longest context that fits, a multiple of 256 up to the native one; 0 if none."""
    config = replace(config, limit=None)
    low, high = 0, config.native_context // 256
    while low < high:
        middle = (low + high + 1) // 2
        if fit(config, weights, machine, 256 * middle, kv_bits).fits:
            low = middle
        else:
            high = middle - 1
    return 256 * low

"""Will it fit? Bytes, and the inequality, from config and headers alone.

    weights + KV(context) + prefill scratch + runtime <= available

A GB is 10**9 bytes. Nothing here reads a weight or needs MLX.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.config.matrices import weight_shapes
from qwen3_mlx.config.quantization import QuantSpec
from qwen3_mlx.errors import OptionError, gb
from qwen3_mlx.fit import prefill_peak
from qwen3_mlx.fit.machine import Machine

PREFILL_CHUNK = 2048
RUNTIME_BYTES = 300_000_000
"""Python, MLX, Qwen's tokenizer, the terminal: 135 MB measured on Linux; Metal's heaps on top."""
KV_GROUP = 64
FLOATS = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}


class TensorLike(Protocol):
    """A tensor's header: dtype as safetensors spells it, and its bytes."""

    @property
    def dtype(self) -> str:
        """Such as ``BF16``."""

    @property
    def nbytes(self) -> int:
        """Bytes stored."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The bytes of the weights: integers as packed, and floats, whose width the machine chooses."""

    stored_bytes: int
    packed_bytes: int
    floats: int

    def resident_bytes(self, float_bytes: int | None = None) -> int:
        """Bytes in memory; `float_bytes` is the width floats are widened to (None: as stored)."""
        if float_bytes is None:
            return self.stored_bytes
        return self.packed_bytes + self.floats * float_bytes


def weights_from_headers(tensors: Iterable[TensorLike]) -> Weights:
    """Count the tensors of a checkpoint from their headers."""
    stored = packed = floats = 0
    for tensor in tensors:
        stored += tensor.nbytes
        if width := FLOATS.get(tensor.dtype):
            floats += tensor.nbytes // width
        else:
            packed += tensor.nbytes
    return Weights(stored, packed, floats)


def weights_from_config(config: Qwen3Config) -> Weights:
    """The same, computed: bf16, or packed as the config's quantization says."""
    quantization = config.quantization
    return weights_packed(config, quantization.spec if quantization else lambda _path: None)


def weights_packed(config: Qwen3Config, spec: Callable[[str], QuantSpec | None]) -> Weights:
    """The weights if each matrix were packed as `spec` says of its module path; None: bf16."""
    packed = floats = 0
    for path, shape in weight_shapes(config):
        bytes_packed, count = _storage(shape, spec(path) if len(shape) > 1 else None)
        packed, floats = packed + bytes_packed, floats + count
    return Weights(packed + 2 * floats, packed, floats)


def _storage(shape: tuple[int, ...], spec: QuantSpec | None) -> tuple[int, int]:
    """Bytes of packed integers, and number of floats, that one weight takes."""
    count = math.prod(shape)
    if spec is None or shape[-1] % spec.group_size:
        return 0, count
    groups = count // spec.group_size
    if spec.mode == "affine":
        return count * spec.bits // 8, 2 * groups  # a scale and a bias a group
    return count * spec.bits // 8 + groups, 0  # the mx and nv formats: one byte of scale a group


def kv_bytes_per_token(
    config: Qwen3Config, kv_bits: int | None = None, float_bytes: int = 2
) -> int:
    """Bytes of keys and values that one token adds over all layers.

    Numbers of `float_bytes` unless `kv_bits` (8 or 4) says less: then that, and for each group of
    64 (32 where 64 doesn't divide a head) two constants of `float_bytes`.
    """
    numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    if kv_bits is None:
        return float_bytes * numbers
    if kv_bits not in (4, 8):
        raise OptionError("kv-bits", got=kv_bits, expected="8 or 4, or nothing for 16")
    group = KV_GROUP if config.head_dim % KV_GROUP == 0 else KV_GROUP // 2
    return numbers * kv_bits // 8 + 2 * float_bytes * numbers // group


def scratch_bytes(
    config: Qwen3Config,
    machine: Machine,
    context: int,
    chunk: int = PREFILL_CHUNK,
    packed: bool = False,
) -> int:
    """Bytes alive beside weights and cache at the peak of a chunk, `context` tokens with it."""
    return prefill_peak.work_bytes(
        config,
        min(chunk, context),
        context,
        float_bytes=machine.float_bytes or 2,
        on_cpu=not machine.fused_attention,
        packed=packed,
        unpacks=machine.unpacks,
    )


def ways_to_free_memory(
    config: Qwen3Config, tokens: int, kv_bits: int | None, float_bytes: int = 2
) -> str:
    """What would make room for `tokens` of keys and values, with the figures."""
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
    """The inequality with its numbers, all in bytes."""

    weight_bytes: int
    kv_bytes: int
    scratch_bytes: int
    runtime_bytes: int
    available_bytes: int
    context: int

    @property
    def required_bytes(self) -> int:
        """The left side."""
        return self.weight_bytes + self.kv_bytes + self.scratch_bytes + self.runtime_bytes

    @property
    def fits(self) -> bool:
        """Whether the left side is at most the right."""
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
    """Fill in the inequality for `context` tokens, read `chunk` at a time.

    Raises `OptionError` or `ContextError`.
    """
    if context < 1:
        raise OptionError("context", got=context, expected="1 or more tokens")
    config.for_context(context)  # refuses what no YaRN factor reaches
    if chunk < 1:
        raise OptionError("prefill chunk", got=chunk, expected="at least 1")
    per_token = kv_bytes_per_token(config, kv_bits, machine.float_bytes or 2)
    cache, work = prefill_peak.peak_bytes(
        config,
        context,
        chunk,
        float_bytes=machine.float_bytes or 2,
        kv_bytes_per_token=per_token,
        on_cpu=not machine.fused_attention,
        packed=kv_bits is not None,
        unpacks=machine.unpacks,
    )
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
    """The longest context that fits, in steps of 256 tokens up to the native one; 0 if none."""
    low, high = 0, config.native_context // 256
    while low < high:
        middle = (low + high + 1) // 2
        if fit(config, weights, machine, 256 * middle, kv_bits).fits:
            low = middle
        else:
            high = middle - 1
    return 256 * low

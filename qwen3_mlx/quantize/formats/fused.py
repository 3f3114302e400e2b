"""A checkpoint with a LoRA adapter fused in: the products are added to the rows as they are read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.checkpoint.adapter import read_adapter
from qwen3_mlx.checkpoint.adapter_parts import Update
from qwen3_mlx.checkpoint.headers import TensorInfo
from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.quantize.formats.parts import Part, Reader
from qwen3_mlx.quantize.formats.source import Source, Weight


class Factors:
    """The factors of an update, read when they are wanted and kept by one weight at a time."""

    def __init__(self, update: Update) -> None:
        self.update = update

    @cached_property
    def stacked(self) -> tuple[mx.array, mx.array]:
        """``A [E, r, in]`` and ``B [E, out, r]``, E = 1 for a matrix, in float32."""
        a, b = self.update.factors()
        return (a, b) if a.ndim == 3 else (a[None], b[None])


@dataclass(frozen=True, slots=True)
class FusedPart:
    """A matrix, or a stack of experts taken as one tall matrix, and what an adapter adds to it."""

    base: Part
    update: Update
    first: int
    """The expert that its first rows belong to."""

    @property
    def shape(self) -> tuple[int, int]:
        """The base's."""
        return self.base.shape

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """The base's, and the factors."""
        return (*self.base.tensors, *self.update.tensors)

    def open(self, dtype: mx.Dtype) -> Reader:
        """Read rows, add the product in float32, round once."""
        read_base, factors, rows = self.base.open(mx.float32), Factors(self.update), self.rows

        def read(start: int, stop: int) -> mx.array:
            a, b = factors.stacked
            added = []
            for expert in range(start // rows, -(-stop // rows)):
                own = slice(max(start - expert * rows, 0), min(stop - expert * rows, rows))
                added.append(b[self.first + expert][own] @ a[self.first + expert])
            return (read_base(start, stop) + mx.concatenate(added)).astype(dtype)

        return read

    @property
    def rows(self) -> int:
        """Rows of one expert, or of the matrix."""
        return self.update.shape[-2]


def fuse(source: Source, adapter: str | Path) -> Source:
    """`source` with the adapter in the directory `adapter` fused into its weights.

    Packed weights are read unpacked. Raises as `read_adapter`, and `CheckpointError` for an
    adapter that brings weights of its own.
    """
    found = read_adapter(adapter, source.config)
    weights = tuple(_fused(weight, found.updates.get(weight.path)) for weight in source.weights)
    for path, info in found.copies.items():
        _check_copy(source, path, info)
    return replace(source, weights=weights, adapter=found.fingerprint())


def _fused(weight: Weight, update: Update | None) -> Weight:
    if update is None:
        return weight
    parts = (FusedPart(part, update, number) for number, part in enumerate(weight.parts))
    return replace(weight, parts=tuple(parts))


def _check_copy(source: Source, path: str, info: TensorInfo) -> None:
    """As the loader does: what the adapter's file repeats must be what the model has."""
    from qwen3_mlx.checkpoint.raw import read_rows
    from qwen3_mlx.quantize.formats.parts import PlainPart

    weight = next((weight for weight in source.weights if weight.path == path), None)
    part = None if weight is None else weight.parts[0]
    part = part.base if isinstance(part, FusedPart) else part
    if not isinstance(part, PlainPart):
        return
    for start in range(0, part.shape[0], 4096):
        stop = min(start + 4096, part.shape[0])
        own = part.open(mx.float32)(start, stop)
        if not mx.array_equal(read_rows(info, start, stop).astype(mx.float32), own).item():
            hint = "it was trained too: merge it into the model with PEFT's merge_and_unload"
            what = f"the adapter brings its own {path}"
            raise CheckpointError(what, got=info.name, expected="the model's weights", hint=hint)

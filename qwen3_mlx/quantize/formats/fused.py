"""Fuses a LoRA adapter into a checkpoint: its product is added to rows as they are read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.checkpoint.adapter import read_adapter
from qwen3_mlx.checkpoint.adapter_parts import Update
from qwen3_mlx.checkpoint.raw import read_rows
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.quantize.formats.parts import Part, PlainPart, Reader
from qwen3_mlx.quantize.formats.source import Source, Weight


class Factors:
    """Caches the factors of the last two updates.

    Experts are read one by one but share their factors, and blocks of at most two weights are in
    progress at once.
    """

    def __init__(self) -> None:
        self._recent: dict[str, tuple[mx.array, mx.array]] = {}

    def of(self, update: Update) -> tuple[mx.array, mx.array]:
        """``A [E, r, in]`` and ``B [E, out, r]``, E = 1 for a matrix, in float32."""
        if update.path not in self._recent:
            while len(self._recent) > 1:
                del self._recent[next(iter(self._recent))]
            a, b = update.factors()
            pair = (a, b) if a.ndim == 3 else (a[None], b[None])
            mx.eval(pair)
            self._recent[update.path] = pair
        return self._recent[update.path]


@dataclass(frozen=True, slots=True)
class FusedPart:
    """A matrix, or experts stacked to one tall matrix, with an adapter's update."""

    base: Part
    update: Update
    first: int
    """The expert of its first rows."""
    factors: Factors

    @property
    def shape(self) -> tuple[int, int]:
        """The base's shape."""
        return self.base.shape

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """The base's tensors and the factors."""
        return (*self.base.tensors, *self.update.tensors)

    def open(self, dtype: mx.Dtype) -> Reader:
        """Read rows, add the product in float32, and round once."""
        read_base, rows = self.base.open(mx.float32), self.rows

        def read(start: int, stop: int) -> mx.array:
            a, b = self.factors.of(self.update)
            added = []
            for expert in range(start // rows, -(-stop // rows)):
                own_rows = slice(max(start - expert * rows, 0), min(stop - expert * rows, rows))
                added.append(b[self.first + expert][own_rows] @ a[self.first + expert])
            return (read_base(start, stop) + mx.concatenate(added)).astype(dtype)

        return read

    @property
    def rows(self) -> int:
        """Rows of one expert, or of the matrix."""
        return self.update.shape[-2]


def fuse(source: Source, adapter: str | Path) -> Source:
    """`source` with the adapter in the directory `adapter` fused into its weights.

    Packed weights are unpacked. Raises as `read_adapter`, and `CheckpointError` for an adapter
    whose copies of weights differ from the model's.
    """
    found = read_adapter(adapter, source.config)
    factors = Factors()
    weights = tuple(_fused(w, found.updates.get(w.path), factors) for w in source.weights)
    for path, info in found.copies.items():
        _check_copy(source, path, info)
    return replace(source, weights=weights, adapter=found.fingerprint())


def _fused(weight: Weight, update: Update | None, factors: Factors) -> Weight:
    if update is None:
        return weight
    parts = (FusedPart(part, update, number, factors) for number, part in enumerate(weight.parts))
    return replace(weight, parts=tuple(parts))


def _check_copy(source: Source, path: str, info: TensorInfo) -> None:
    """Raise `CheckpointError` unless the adapter's copy equals the model's weight."""
    weight = next((weight for weight in source.weights if weight.path == path), None)
    part = None if weight is None else weight.parts[0]
    part = part.base if isinstance(part, FusedPart) else part
    if weight is None or not isinstance(part, PlainPart):
        return
    weight.open_for_reading()
    for start in range(0, part.shape[0], 4096):
        stop = min(start + 4096, part.shape[0])
        own_rows = part.open(mx.float32)(start, stop)
        if not mx.array_equal(read_rows(info, start, stop).astype(mx.float32), own_rows).item():
            hint = "it was trained too: merge it into the model with PEFT's merge_and_unload"
            what = f"the adapter brings its own {path}"
            raise CheckpointError(what, got=info.name, expected="the model's weights", hint=hint)

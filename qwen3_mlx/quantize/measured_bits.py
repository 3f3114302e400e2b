"""Chooses each matrix's bits by measurement, for the ``dynamic`` recipe.

A sample of each matrix's rows is packed at 4, 5, 6 and 8 bits to measure the relative error of the
weights. Errors of matrices add up through the network, so a greedy search minimizes the sum of the
relative errors: from the fewest bits on, it takes the step that removes the most error per byte,
until the size is used up.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.config.matrices import parameters
from qwen3_mlx.config.quantization import QuantSpec
from qwen3_mlx.config.recipes import FLOORS, Recipe, weight_class
from qwen3_mlx.errors import OptionError
from qwen3_mlx.quantize.formats import Source, Weight
from qwen3_mlx.quantize.formats.mlx import unpack
from qwen3_mlx.quantize.pack import pack
from qwen3_mlx.quantize.plan import stored_as

STEPS = (4, 5, 6, 8)
_SAMPLES, _ROWS = 8, 64

Errors = dict[str, dict[int, float]]
"""Squared error over squared norm of the weights, by module path and bits."""


def measure(
    source: Source, recipe: Recipe, on_progress: Callable[[int, int], None] | None = None
) -> Errors:
    """The error of every matrix that the recipe packs, at each number of bits it may get."""
    weights = [(weight, spec) for weight, spec in _packed(source, recipe)]
    errors: Errors = {}
    for number, (weight, spec) in enumerate(weights, 1):
        sample = _sample(weight)
        errors[weight.path] = {
            bits: _error(sample, replace(spec, bits=bits)) for bits in _steps(source, weight, spec)
        }
        mx.clear_cache()
        if on_progress is not None:
            on_progress(number, len(weights))
    return errors


def choose(source: Source, recipe: Recipe, errors: Errors, dtype: mx.Dtype) -> Recipe:
    """The recipe with bits per path, within its target. Raises `OptionError` if it's too small."""
    assert recipe.target is not None
    specs = {weight.path: (weight, spec) for weight, spec in _packed(source, recipe)}
    bits = {path: min(steps) for path, steps in errors.items()}

    def size(path: str, at: int) -> int:
        weight, spec = specs[path]
        stored = stored_as(path, weight.shape, replace(spec, bits=at), dtype)
        return sum(tensor.nbytes for tensor in stored)

    fixed = sum(
        tensor.nbytes
        for weight in source.weights
        if weight.path not in errors
        for tensor in stored_as(weight.path, weight.shape, None, dtype)
    )
    budget = int(recipe.target * parameters(source.config) / 8)
    used = fixed + sum(size(path, at) for path, at in bits.items())
    if used > budget:
        least = 8 * used / parameters(source.config)
        raise OptionError(
            "target",
            got=f"{recipe.target} bits a weight",
            expected=f"at least {math.ceil(least * 1000) / 1000:.3f}",
            hint="no matrix gets fewer than 4 bits; embedding, head and router get more",
        )
    _spend(bits, errors, size, budget - used)
    paths = {path: replace(specs[path][1], bits=at) for path, at in bits.items()}
    return replace(recipe, paths=paths)


def _spend(
    bits: dict[str, int], errors: Errors, size: Callable[[str, int], int], left: int
) -> None:
    """Raise `bits` step by step, most error per byte first; ties are broken by path."""

    def bargain(path: str) -> tuple[float, str] | None:
        above = [step for step in errors[path] if step > bits[path]]
        if not above:
            return None
        gain = errors[path][bits[path]] - errors[path][min(above)]
        return -gain / (size(path, min(above)) - size(path, bits[path])), path

    queue = [offer for path in sorted(bits) if (offer := bargain(path))]
    heapq.heapify(queue)
    while queue:
        _, path = heapq.heappop(queue)
        above = min(step for step in errors[path] if step > bits[path])
        cost = size(path, above) - size(path, bits[path])
        if cost > left:
            continue  # smaller matrices may still fit
        bits[path], left = above, left - cost
        if offer := bargain(path):
            heapq.heappush(queue, offer)


def _packed(source: Source, recipe: Recipe) -> Iterable[tuple[Weight, QuantSpec]]:
    for weight in source.weights:
        spec = recipe.spec(weight.path, source.config)
        if spec is not None and spec.mode == "affine":
            yield weight, spec


def _steps(source: Source, weight: Weight, spec: QuantSpec) -> Iterable[int]:
    """The bits that a matrix may get: at least the recipe's and its class's floor."""
    kind = weight_class(weight.path, source.config)
    least = max(spec.bits, FLOORS.get(kind or "", 0))
    return [least, *(bits for bits in STEPS if bits > least)]


def _sample(weight: Weight) -> list[mx.array]:
    """Blocks of rows, spread evenly over the matrix or the experts."""
    chosen = weight.parts[:: max(len(weight.parts) // _SAMPLES, 1)][:_SAMPLES]
    bands = []
    for part in chosen:
        rows, read = part.shape[0], part.open(mx.float32)
        count = max(_SAMPLES // len(chosen), 1)
        height = min(_ROWS, max(rows // count, 1))
        bands += [read(start, start + height) for start in _starts(rows, height, count)]
    return bands


def _starts(rows: int, height: int, count: int) -> list[int]:
    if count == 1 or rows <= height:
        return [0]
    return sorted({(rows - height) * n // (count - 1) for n in range(count)})


def _error(sample: list[mx.array], spec: QuantSpec) -> float:
    losses = [((unpack(pack(rows, spec), spec) - rows) ** 2).sum() for rows in sample]
    sizes = [(rows**2).sum() for rows in sample]
    total = float(mx.stack(sizes).sum())
    return float(mx.stack(losses).sum()) / total if total else 0.0

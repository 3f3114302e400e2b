"""Assigns a pipeline's layers to machines, balanced by bytes.

The first machine also holds embedding, last norm and head, because it samples the tokens.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from qwen3_mlx.config.matrices import weight_shapes
from qwen3_mlx.config.network import Qwen3Config

_LAYER = re.compile(r"model\.layers\.(\d+)\.")


def stages(config: Qwen3Config, size: int) -> list[range]:
    """The layers of each of `size` machines, at least one each, minimizing the largest share."""
    layers, ends = _bytes(config)
    low, high = max(layers), sum(layers) + ends
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _filled(layers, ends, size, middle) else (middle + 1, high)
    found = _filled(layers, ends, size, high)
    assert found is not None
    return found


def _filled(layers: Sequence[int], ends: int, size: int, most: int) -> list[range] | None:
    """The layers if every machine holds at most `most` bytes; None if they don't all fit."""
    found: list[range] = []
    start = 0
    for rank in range(size):
        room, stop = most - ends if rank == 0 else most, start
        last = len(layers) - (size - rank - 1)  # leaves at least one layer for each of the others
        while stop < last and layers[stop] <= room:
            room -= layers[stop]
            stop += 1
        if stop == start:
            return None
        found.append(range(start, stop))
        start = stop
    return found if start == len(layers) else None


def _bytes(config: Qwen3Config) -> tuple[list[int], int]:
    """Bytes of every layer, and of embedding, last norm and head together."""
    found: Counter[int | None] = Counter()
    for path, shape in weight_shapes(config):
        spec = config.quantization.spec(path) if config.quantization and len(shape) > 1 else None
        item = 2 if spec is None else spec.bits / 8 + 4 / spec.group_size
        match = _LAYER.match(path)
        found[int(match[1]) if match else None] += int(math.prod(shape) * item)
    return [found[index] for index in range(config.num_hidden_layers)], found[None]


def path_there(name: str, layers: range) -> str | None:
    """The name of a tensor or module on the machine of `layers`; None if it isn't there.

    Every machine counts its layers from 0.
    """
    match = _LAYER.match(name)
    if match is None:
        return name if layers.start == 0 else None
    index = int(match[1])
    if index not in layers:
        return None
    return f"model.layers.{index - layers.start}.{name[match.end() :]}"


def stage_config(whole: Qwen3Config, layers: range) -> Qwen3Config:
    """The configuration with only `layers`, counted from 0; the rest as in `whole`."""
    quantization = whole.quantization
    if quantization is not None:
        known = (
            (path_there(f"{path}.", layers), spec) for path, spec in quantization.overrides.items()
        )
        overrides = {path.rstrip("."): spec for path, spec in known if path is not None}
        quantization = replace(quantization, overrides=overrides)
    dense = (i - layers.start for i in layers if not whole.is_moe_layer(i))
    return replace(
        whole,
        num_hidden_layers=len(layers),
        mlp_only_layers=tuple(dense) if whole.is_moe else whole.mlp_only_layers,
        decoder_sparse_step=1 if whole.is_moe else whole.decoder_sparse_step,
        quantization=quantization,
    )

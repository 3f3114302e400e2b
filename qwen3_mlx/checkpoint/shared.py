"""Reads the part of a checkpoint that one of several machines holds.

Rows of a matrix, or of each expert in a stack, are contiguous, so only they are read. For columns,
whole rows are read in blocks and cut at once, so memory holds the machine's part and at most one
more tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.checkpoint.raw import read_rows
from qwen3_mlx.checkpoint.tensor_info import Part, TensorInfo
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.config.share import Share

BLOCK = 1 << 24
"""Bytes read at a time if only a part of each row is needed."""
SHORT_RUN = 1 << 16
"""Bytes of a run below which whole rows are read: seeking would cost more than skipping."""


def share_sources(
    sources: Mapping[str, list[TensorInfo]], share: Share, config: Qwen3Config
) -> dict[str, list[TensorInfo]]:
    """The tensors, or parts of them, from which this machine reads each of its parameters."""
    return {
        own: [_own(info, name.rpartition(".")[0], share) for info in sources[name]]
        for name, own in share.names(config, sources).items()
    }


def _own(info: TensorInfo, path: str, share: Share) -> TensorInfo:
    split = share.split(path)
    if split == "whole":
        return info
    axis = len(info.shape) - (2 if split == "rows" else 1)
    own = share.part(path, info.shape)[axis]
    shape = (*info.shape[:axis], own.stop - own.start, *info.shape[axis + 1 :])
    nbytes = info.nbytes * (own.stop - own.start) // info.shape[axis]
    part = Part(axis, own.start, info.shape[axis])
    return replace(info, shape=shape, nbytes=nbytes, part=part)


def read_part(info: TensorInfo) -> mx.array:
    """This machine's part of a tensor, in the part's shape. Raises `CheckpointError`."""
    part = info.part
    assert part is not None
    size = info.shape[part.axis]
    lead = math.prod(info.shape[: part.axis])
    width = math.prod(info.shape[part.axis + 1 :])
    item = info.nbytes // max(math.prod(info.shape), 1)
    whole = replace(
        info, shape=(lead, part.of * width), nbytes=lead * part.of * width * item, part=None
    )
    start, stop = part.start * width, (part.start + size) * width
    if lead == 1 or (stop - start) * item >= SHORT_RUN:
        runs = [_run(whole, row, start, stop, item) for row in range(lead)]
        return _joined(runs).reshape(info.shape)
    rows = max(BLOCK // (part.of * width * item), 1)
    blocks = []
    for first in range(0, lead, rows):
        block = mx.contiguous(read_rows(whole, first, min(first + rows, lead))[:, start:stop])
        mx.eval(block)  # frees the rest of these rows
        blocks.append(block)
    return _joined(blocks).reshape(info.shape)


def _run(whole: TensorInfo, row: int, start: int, stop: int, item: int) -> mx.array:
    offset = whole.offset + (row * whole.shape[1] + start) * item
    nbytes = (stop - start) * item
    return read_rows(replace(whole, shape=(1, stop - start), nbytes=nbytes, offset=offset), 0, 1)


def _joined(parts: list[mx.array]) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(parts)

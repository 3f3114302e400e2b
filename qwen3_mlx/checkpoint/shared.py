"""The part of a checkpoint that one of several machines reads: its rows, its columns, its experts.

Rows of a matrix are one run of bytes, and nothing else is read. Of a stack of experts each one's
rows are a run. Columns are a few hundred bytes of every row: there all rows are read, some at a
time, and cut at once, so that what is held is the machine's own and at most one tensor besides.
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
"""Bytes read at a time where only a part of each row is wanted."""
SHORT_RUN = 1 << 16
"""Bytes of a run below which the whole is read: a seek costs more than what is skipped."""


def share_sources(
    sources: Mapping[str, list[TensorInfo]], share: Share, config: Qwen3Config
) -> dict[str, list[TensorInfo]]:
    """What this machine reads for each of its parameters, of a network of that `config`."""
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
    """The wanted part of a tensor, in its own shape. Raises `CheckpointError`."""
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
        mx.eval(block)  # and the rest of these rows is free
        blocks.append(block)
    return _joined(blocks).reshape(info.shape)


def _run(whole: TensorInfo, row: int, start: int, stop: int, item: int) -> mx.array:
    offset = whole.offset + (row * whole.shape[1] + start) * item
    nbytes = (stop - start) * item
    return read_rows(replace(whole, shape=(1, stop - start), nbytes=nbytes, offset=offset), 0, 1)


def _joined(parts: list[mx.array]) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(parts)

"""Writes a shard in the planned order, and digests it."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.quantize.disk import Disk
from qwen3_mlx.quantize.pack import AHEAD, bytes_of, packed_stream
from qwen3_mlx.quantize.plan import PAGE, Item, Shard

BytesDone = Callable[[int], None]
"""Called with the source's bytes processed since the last call."""


def write_shard(
    disk: Disk,
    directory: Path,
    shard: Shard,
    dtype: mx.Dtype,
    on_bytes: BytesDone,
    on_weight: Callable[[str], None],
) -> str:
    """Write one shard; returns its sha256. Until it is whole it has another name.

    `on_weight` is called with the path of each weight that has been packed.

    Raises `OSError` for a disk that is full, and what reading the source raises.
    """
    part = directory / f".{shard.name}.part"
    with disk.create(part) as stream, _Writer(disk, stream) as out:
        out.write(shard.header())
        late: dict[str, list[memoryview]] = {}
        _write_items(out, shard.paged, dtype, on_bytes, on_weight, late)
        for tensor in shard.late:
            out.write_all(late.pop(tensor.name))
        _write_items(out, shard.rest, dtype, on_bytes, on_weight, None)
        out.drain()
        assert out.written == shard.nbytes, "the plan and the writer disagree"
        disk.sync(stream)
    disk.rename(part, directory / shard.name)
    return out.digest.hexdigest()


class _Writer:
    """Appends to a file and digests it, in its own thread.

    The thread's errors are raised by the next `write` or `drain`.
    """

    def __init__(self, disk: Disk, stream: IO[bytes]) -> None:
        self.disk, self.stream = disk, stream
        self.digest = hashlib.sha256()
        self.written = 0
        self._pool = ThreadPoolExecutor(1, "writer")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def write(self, data: memoryview | bytes) -> None:
        if len(self._waiting) == AHEAD:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._append, data))

    def write_all(self, pieces: list[memoryview]) -> None:
        for piece in pieces:
            self.write(piece)

    def drain(self) -> None:
        while self._waiting:
            self._waiting.popleft().result()

    def _append(self, data: memoryview | bytes) -> None:
        self.disk.write(self.stream, data)
        self.digest.update(data)
        self.written += len(data)


def _write_items(
    out: _Writer,
    items: Sequence[Item],
    dtype: mx.Dtype,
    on_bytes: BytesDone,
    on_weight: Callable[[str], None],
    late: dict[str, list[memoryview]] | None,
) -> None:
    stream = packed_stream(((item.weight, item.spec) for item in items), dtype, raw=True)
    for number, blocks in groupby(stream, key=itemgetter(0)):
        arrays = (arrays for _, arrays in blocks)
        _write_item(out, items[number], arrays, on_bytes, late)
        on_weight(items[number].weight.path)


def _write_item(
    out: _Writer,
    item: Item,
    blocks: Iterable[list[mx.array]],
    on_bytes: BytesDone,
    late: dict[str, list[memoryview]] | None,
) -> None:
    """Write the packed weight block by block, then its scales and biases.

    Those that don't fill pages go into `late` instead, if it is given.
    """
    constants: list[list[memoryview]] = [[] for _ in item.stored[1:]]
    total = sum(part.shape[0] for part in item.weight.parts)
    done = counted = 0
    for first, *others in blocks:
        out.write(bytes_of(first))
        for collected, array in zip(constants, others, strict=True):
            collected.append(bytes_of(array))
        done += first.shape[0]
        share = item.weight.nbytes * done // total
        on_bytes(share - counted)
        counted = share
    for tensor, pieces in zip(item.stored[1:], constants, strict=True):
        if late is not None and tensor.nbytes % PAGE:
            late[tensor.name] = pieces
        else:
            out.write_all(pieces)

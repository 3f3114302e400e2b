"""Tensors read into large pages, on Linux and MLX's CPU backend.

There loading is page faults: one for each 4 kB that MLX allocates and reads into, over a million of
them for 8B in 4 bits. Where the system has transparent huge pages on request, they are asked for
before memory is first written: 2 MB a fault.

MLX has no call for memory that nothing is written to yet. But `mx.load` takes a file object, and
hands it the memory that a tensor is to be read into. The one given here notes where that is and
reads nothing; the bytes come after the advice, by several threads.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import struct
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from qwen3_mlx.checkpoint.headers import TensorInfo
from qwen3_mlx.errors import CheckpointError

_ADVISED = 1 << 16
"""Bytes of a tensor from which on its pages are worth a system call."""
_PIECE = 4 << 20
"""Bytes that one thread reads at a time."""
_THREADS = 4


def supported() -> bool:
    """Whether tensors are read here: elsewhere MLX allocates from its GPU's memory."""
    return sys.platform == "linux" and backend.device() == "cpu" and _probe()


@cache
def _probe() -> bool:
    """Whether what is written where `mx.load` wanted it is what the array then holds.

    MLX doesn't promise that: it could read later, or into memory of its own.
    """
    count = 1024
    places = _Places([TensorInfo("x", "U8", (count,), count, Path(), 0)])
    array: Any = mx.load(places, format="safetensors")["x"]  # type: ignore[arg-type, call-overload]
    if (view := places.views.get("x")) is None or len(view) != count:
        return False
    view[:] = bytes(range(256)) * (count // 256)
    return bool(mx.array_equal(array, mx.arange(count).astype(mx.uint8)))


class Reader:
    """Reads tensors into large pages; a context manager that closes their files."""

    def __init__(self) -> None:
        self._files: dict[Path, int] = {}
        self._pool = ThreadPoolExecutor(_THREADS)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()  # first: it waits for those who still read
        for descriptor in self._files.values():
            os.close(descriptor)

    def begin(self, infos: Sequence[TensorInfo]) -> tuple[dict[str, mx.array], list[Future[None]]]:
        """The tensors by name, and what to wait for before they are looked at.

        A future raises `CheckpointError` for a file cut short.
        """
        places = _Places(infos)
        arrays: Any = mx.load(places, format="safetensors")  # type: ignore[arg-type]
        for view in places.views.values():  # all first: neighbours then share their large pages
            _advise(view)
        reading = []
        for info in infos:
            descriptor = self._open(info.file)
            for start in range(0, info.nbytes, _PIECE):
                piece = places.views[info.name][start : start + _PIECE]
                # the array goes along, or its memory could be freed while it is written
                job = (arrays[info.name], piece, descriptor, info.offset + start, info.file)
                reading.append(self._pool.submit(_fill, *job))
        return arrays, reading

    def _open(self, file: Path) -> int:
        if file not in self._files:
            try:
                self._files[file] = os.open(file, os.O_RDONLY)
            except OSError as error:
                raise CheckpointError(f"{file.name} can't be read", got=str(error)) from None
        return self._files[file]


class _Places:
    """To `mx.load` a safetensors file; what it asks for is where its tensors are to be."""

    closed = False

    def __init__(self, infos: Sequence[TensorInfo]) -> None:
        header, self._names, end = {}, {}, 0
        for info in infos:
            offsets = [end, end + info.nbytes]
            header[info.name] = {"dtype": info.dtype, "shape": info.shape, "data_offsets": offsets}
            self._names[end] = info.name
            end += info.nbytes
        text = json.dumps(header).encode()
        self._head = struct.pack("<Q", len(text)) + text
        self._size, self._at = len(self._head) + end, 0
        self.views: dict[str, memoryview] = {}

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> None:
        """As a file's."""
        self._at = offset + {os.SEEK_CUR: self._at, os.SEEK_END: self._size}.get(whence, 0)

    def tell(self) -> int:
        """As a file's."""
        return self._at

    def readinto(self, view: memoryview) -> int:
        """The header's bytes; of a tensor's, the place alone."""
        if self._at < len(self._head):
            view[:] = self._head[self._at : self._at + len(view)]
            self._at += len(view)
        elif len(view):
            self.views[self._names[self._at - len(self._head)]] = view
        return len(view)


def _fill(_: mx.array, view: memoryview, descriptor: int, offset: int, file: Path) -> None:
    """Read the bytes from `offset` on into all of `view`."""
    done = 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if not count:
            raise CheckpointError(
                f"{file.name} was cut short while it was read",
                got=f"{offset + done} bytes",
                expected=f"at least {offset + len(view)}",
                hint="fetch or convert the model again",
            )
        done += count


def _advise(view: memoryview) -> None:
    """Ask for large pages there. A system without them says no, and gives small ones."""
    if len(view) < _ADVISED:
        return
    address = ctypes.addressof(ctypes.c_char.from_buffer(view))
    begin = address - address % mmap.PAGESIZE
    _libc().madvise(begin, address + len(view) - begin, mmap.MADV_HUGEPAGE)


@cache
def _libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return library

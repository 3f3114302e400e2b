"""Weights used where the system maps them, without a copy, if this machine found that to pay.

MLX 0.32.4 can adopt memory it did not allocate, on Metal only: ``mx.from_dlpack(view, copy=False)``
makes a buffer around the pages (convert.cpp, ``newBufferWithBytesNoCopy``), if they begin where a
page begins. The shards that `convert` writes do; other files mostly don't, and a tensor that does
not is read the plain way. `try_mapped` finds out whether that is right here, and faster; until then
all weights are read. No Mac has run it yet.

What a map gives: weights are in memory once, as the system's own cache of the file, and can be
dropped and read again under pressure. What it costs: a file cut short in its place, under a running
process, kills that process (SIGBUS). Files are replaced by renaming, as `convert` and the hub do,
so that takes some doing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import mmap
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.files import open_regular
from qwen3_mlx.metal import verdict

VARIABLE = "QWEN3_MLX_ZERO_COPY"
"""``off`` reads all the same, ``on`` maps where that is right, faster or not."""

PAGE = 16_384
"""Bytes: Apple Silicon's page, and a multiple of all others'."""
_TYPES = {"U32": "uint32", "U8": "uint8", "F32": "float32", "F16": "float16", "BF16": "uint16"}


@dataclass(frozen=True, slots=True)
class State:
    """Whether weights are mapped, and why or why not."""

    on: bool
    why: str
    right: bool = False
    """Whether mapped weights were those of the file, faster or not."""


def state() -> State:
    """Whether this process maps weights: by this machine's verdict."""
    asked = os.environ.get(VARIABLE, "")
    if asked == "off":
        return State(False, f"off: asked for by {VARIABLE}")
    if backend.device() != "metal":
        return State(False, f"off: MLX adopts memory on Metal only, not on {backend.device()}")
    if importlib.util.find_spec("numpy") is None:
        return State(False, "off: it needs numpy (pip install numpy)")
    held = known()
    if held is None:
        return State(False, "off: not yet tried; qwen3-mlx doctor --prove MODEL tries it")
    on = held.on or (asked == "on" and held.right)
    return State(on, f"{'on' if on else 'off'}: {held.why}", held.right)


def verdict_file() -> Path:
    """That of this machine: MLX, the device, the system's build, and how we map."""
    texts = b"".join(sorted(file.read_bytes() for file in Path(__file__).parent.glob("*mapped.py")))
    parts = (version("mlx"), verdict.machine(), verdict.system_build())
    name = hashlib.sha256(json.dumps(parts).encode() + texts).hexdigest()[:32]
    return verdict.folder().with_name("mapped") / f"{name}.json"


def known() -> State | None:
    """The verdict that this machine has kept; None if it kept none, or the file is damaged."""
    try:
        held = State(**json.loads(verdict_file().read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    sound = isinstance(held.on, bool) and isinstance(held.right, bool) and isinstance(held.why, str)
    return held if sound else None


def _wrap(view: Any) -> mx.array:
    """An array around a NumPy view's memory. Raises `ValueError` where that can't be."""
    return mx.from_dlpack(view, copy=False)


class Maps:
    """The maps of a checkpoint's files; the arrays made from one keep it alive."""

    def __init__(self) -> None:
        self._maps: dict[Path, mmap.mmap] = {}

    def adopt(self, info: TensorInfo) -> mx.array | None:
        """The tensor in its own pages; None if it does not begin at a page, or MLX won't.

        Raises `CheckpointError` if the file is no longer as long as its header was read to be.
        """
        import numpy as np

        if info.offset % PAGE or info.dtype not in _TYPES or not info.nbytes:
            return None
        pages = self._maps.get(info.file)
        if pages is None:
            pages = self._maps[info.file] = _map(info.file)
        if info.offset + info.nbytes > len(pages):
            raise CheckpointError(
                f"{info.file.name} was cut short while it was read",
                got=f"{len(pages)} bytes",
                expected=f"at least {info.offset + info.nbytes}",
                hint="fetch or convert the model again",
            )
        kind = np.dtype(_TYPES[info.dtype])
        view = np.frombuffer(pages, kind, info.nbytes // kind.itemsize, info.offset)
        try:
            array = _wrap(view.reshape(info.shape))
        except ValueError:
            return None
        return array.view(mx.bfloat16) if info.dtype == "BF16" else array


def _map(file: Path) -> mmap.mmap:
    """A private map: what is written to it, if ever, never reaches the file."""
    try:
        with open_regular(file) as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file.name} can't be mapped", got=str(error)) from None

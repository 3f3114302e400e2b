"""Memory-maps weights without a copy, where a trial on this machine has shown that it pays.

On Metal, MLX 0.32.4 can adopt memory it did not allocate: ``mx.from_dlpack(view, copy=False)``
makes a buffer around page-aligned memory (convert.cpp, ``newBufferWithBytesNoCopy``). Tensors in
the shards that `convert` writes are page-aligned; others mostly aren't, and are read as usual.
`try_mapped` tests whether mapping is correct and faster here; until then weights are read. No Mac
has run it yet.

Mapped weights are in memory once, as the system's file cache, and can be dropped and read again
under memory pressure. The cost: truncating a file in place kills the process that maps it
(SIGBUS). `convert` and the hub replace files by renaming, which is safe.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import mmap
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.device.switches import switch
from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.files import open_regular
from qwen3_mlx.metal import verdict

VARIABLE = "QWEN3_MLX_ZERO_COPY"
"""``off`` never maps, ``on`` maps wherever that is correct, even if it isn't faster."""

PAGE = 16_384
"""Apple silicon's page size in bytes, a multiple of all others."""
_TYPES = {"U32": "uint32", "U8": "uint8", "F32": "float32", "F16": "float16", "BF16": "uint16"}


@dataclass(frozen=True, slots=True)
class State:
    """Whether weights are mapped, and why."""

    on: bool
    why: str
    right: bool = False
    """Whether the trial read the same weights by mapping, faster or not."""


def state() -> State:
    """Whether this process maps weights, by the saved trial and `VARIABLE`; `OptionError`."""
    setting = switch(VARIABLE)
    if setting == "off":
        return State(False, f"off: asked for by {VARIABLE}")
    if backend.device() != "metal":
        return State(False, f"off: MLX adopts memory on Metal only, not on {backend.device()}")
    if importlib.util.find_spec("numpy") is None:
        return State(False, "off: it needs numpy (pip install numpy)")
    found = saved_state()
    if found is None:
        return State(False, "off: not yet tried; qwen3-mlx doctor --prove MODEL tries it")
    on = found.on or (setting == "on" and found.right)
    return State(on, f"{'on' if on else 'off'}: {found.why}", found.right)


def verdict_file() -> Path:
    """The trial's file, named by MLX's version, device, system build and this code."""
    texts = b"".join(sorted(file.read_bytes() for file in Path(__file__).parent.glob("*mapped.py")))
    parts = (version("mlx"), verdict.machine(), verdict.system_build())
    name = hashlib.sha256(json.dumps(parts).encode() + texts).hexdigest()[:32]
    return verdict.folder().with_name("mapped") / f"{name}.json"


def saved_state() -> State | None:
    """The saved result of the trial; None if there is none or the file is damaged."""
    try:
        found = State(**json.loads(verdict_file().read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    sound = (
        isinstance(found.on, bool) and isinstance(found.right, bool) and isinstance(found.why, str)
    )
    return found if sound else None


def _wrap(view: Any) -> mx.array:
    """An array that uses a NumPy view's memory. Raises `ValueError` if MLX can't."""
    return mx.from_dlpack(view, copy=False)


class Maps:
    """The memory maps of a checkpoint's files; arrays made from a map keep it alive."""

    def __init__(self) -> None:
        self._maps: dict[Path, mmap.mmap] = {}

    def adopt(self, info: TensorInfo) -> mx.array | None:
        """The tensor in its mapped pages; None if it isn't page-aligned or MLX refuses.

        Raises `CheckpointError` if the file is shorter than its header says.
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
    """A private map, so that writes would never reach the file. Raises `CheckpointError`."""
    try:
        with open_regular(file) as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file.name} can't be mapped", got=str(error)) from None

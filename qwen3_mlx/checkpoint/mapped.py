"""Weights used where the system maps them, without a copy: an experiment, off unless asked for.

MLX 0.32.4 can adopt memory it did not allocate, on Metal only: ``mx.from_dlpack(view, copy=False)``
makes a buffer around the pages (convert.cpp, ``newBufferWithBytesNoCopy``), if they begin where a
page begins. The shards that `convert` writes do; other files mostly don't, and a tensor that does
not is read the plain way. No Mac has run this yet, so it takes the variable `VARIABLE` set to
``on`` and a probe that passes.

What a map gives: weights are in memory once, as the system's own cache of the file, and can be
dropped and read again under pressure. What it costs: a file cut short in its place, under a running
process, kills that process (SIGBUS). Files are replaced by renaming, as `convert` and the hub do,
so that takes some doing.
"""

from __future__ import annotations

import importlib.util
import mmap
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from qwen3_mlx.checkpoint.headers import TensorInfo
from qwen3_mlx.errors import CheckpointError

VARIABLE = "QWEN3_MLX_ZERO_COPY"
PAGE = 16_384
"""Bytes: Apple Silicon's page, and a multiple of all others'."""
_TYPES = {"U32": "uint32", "U8": "uint8", "F32": "float32", "F16": "float16", "BF16": "uint16"}
_PROBE = """
import sys
from pathlib import Path
from qwen3_mlx.checkpoint import mapped
sys.exit(0 if mapped.works(Path(sys.argv[1])) else 3)
"""


@dataclass(frozen=True, slots=True)
class State:
    """Whether weights are mapped, and why or why not."""

    on: bool
    why: str


def state() -> State:
    """Whether this process maps weights: if it is asked for and the probe passes."""
    if os.environ.get(VARIABLE, "") != "on":
        return State(False, f"off; {VARIABLE}=on tries it (no Mac has proven it yet)")
    if backend.device() != "metal":
        return State(False, f"off: MLX adopts memory on Metal only, not on {backend.device()}")
    if importlib.util.find_spec("numpy") is None:
        return State(False, "off: it needs numpy (pip install numpy)")
    return _probed()


@cache
def _probed() -> State:
    """Try it in a process of its own, which may crash."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pages"
        file.write_bytes(bytes(range(256)) * (4 * PAGE // 256))
        command = [sys.executable, "-c", _PROBE, str(file)]
        try:
            code = subprocess.run(command, capture_output=True, timeout=60).returncode
        except (OSError, subprocess.TimeoutExpired):
            code = -1
    if code == 0:
        return State(True, f"on: asked for by {VARIABLE}, and the probe passed")
    return State(False, f"off: the probe failed (exit {code})")


def works(file: Path) -> bool:
    """Whether a mapped page gives a computation what a copy of it gives, as integers and bf16."""
    info = TensorInfo("probe", "BF16", (2 * PAGE,), 4 * PAGE, file, 0)
    adopted = Maps().adopt(info)
    if adopted is None:
        return False
    copied = mx.array(list(file.read_bytes()), mx.uint8)
    same = mx.all(adopted.view(mx.uint8) == copied)
    stepped = mx.all((adopted.view(mx.uint16) + 1) == (copied.view(mx.uint16) + 1))
    return bool(mx.logical_and(same, stepped).item())


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
        with file.open("rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file.name} can't be mapped", got=str(error)) from None

"""Are mapped weights right on this machine, and faster than read ones? Tried in children.

    python -m qwen3_mlx.checkpoint.try_mapped FOLDER read|mapped

A child takes the tensors of a checkpoint that begin at a page, adds up the bytes of every page on
the device, twice, and prints what it found: the sums, the seconds until the first and of the
second, the process's peak. Mapped wins if it found the same, sooner, and costs the second pass and
the peak nothing. What was found is kept beside the kernels' verdicts and counts for this machine.
"""

from __future__ import annotations

import hashlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from qwen3_mlx.checkpoint.headers import checkpoint_tensors
from qwen3_mlx.checkpoint.mapped import PAGE, Maps, State, known, verdict_file
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.files import write_atomically

MOST = 512 << 20
"""Bytes that a child takes: what a model in memory beside it leaves room for."""

GAIN = 1.03
LIMIT_S = 20.0
CHILD = [sys.executable, "-m", "qwen3_mlx.checkpoint.try_mapped"]
"""What is started. Tests put one in its place in which MLX adopts memory on a processor too."""

Way = Literal["read", "mapped"]
ORDER: tuple[Way, ...] = ("read", "mapped", "mapped", "read")


@dataclass(frozen=True, slots=True)
class Reading:
    """What one child found."""

    sums: str
    """A digest of the sums of all pages, in order."""
    first: float
    """Seconds until they were known."""
    again: float
    """Seconds of the second pass, as every decode step makes one."""
    peak: int
    """The process's, in the system's unit."""


def prove(directory: Path, again: bool = True) -> tuple[State, str | None]:
    """What children find out with the checkpoint in `directory`, and why it can't be kept, if so.

    again: what is known is found out again. Nothing is kept where there is nothing to try. Raises
    `CheckpointError`.
    """
    if backend.device() != "metal":
        return State(False, f"MLX adopts memory on Metal only, not on {backend.device()}"), None
    if not tensors(directory):
        return State(False, "no tensor begins at a page; qwen3-mlx convert writes such files"), None
    if not again and (held := known()) is not None:
        return held, None
    state, file = _tried(directory), verdict_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(file, json.dumps(asdict(state)).encode())
    except OSError as error:
        return state, str(error.strerror or error)
    return state, None


def _tried(directory: Path) -> State:
    readings: dict[Way, list[Reading]] = {"read": [], "mapped": []}
    for way in ORDER:
        command = [*CHILD, str(directory), way]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            return State(False, f"{way}: still running after {LIMIT_S:.0f} s")
        try:
            readings[way].append(Reading(**json.loads(done.stdout)))
        except (ValueError, TypeError):
            said = (done.stderr.strip() or "no word said").splitlines()[-1][:120]
            return State(False, f"{way}: exit {done.returncode}: {said}")
    return decide(readings["read"], readings["mapped"])


def decide(read: Sequence[Reading], mapped: Sequence[Reading]) -> State:
    """Whether mapped weights are right and faster, by the medians."""
    if {one.sums for one in mapped} != {one.sums for one in read} or len({*_sums(read)}) != 1:
        return State(False, "other numbers than the file's")
    first, again, peak = (
        statistics.median(getattr(one, name) for one in mapped)
        / max(statistics.median(getattr(one, name) for one in read), 1e-9)
        for name in ("first", "again", "peak")
    )
    found = (
        f"{1 / max(first, 1e-9):.2f} × as fast to the first pass, {1 / max(again, 1e-9):.2f} ×"
        f" in the next, {peak:.2f} × the peak"
    )
    faster = first * GAIN <= 1 and again <= GAIN and peak <= GAIN
    return State(faster, f"{'right and faster' if faster else 'right, but no gain'}: {found}", True)


def _sums(readings: Sequence[Reading]) -> list[str]:
    return [one.sums for one in readings]


def tensors(directory: Path) -> list[TensorInfo]:
    """The tensors of whole pages, up to `MOST` bytes of them. Raises `CheckpointError`."""
    found, taken = [], 0
    for info in checkpoint_tensors(directory).values():
        whole = info.nbytes and not info.offset % PAGE and not info.nbytes % PAGE
        if whole and taken + info.nbytes <= MOST:
            found.append(info)
            taken += info.nbytes
    return found


def measured(infos: Sequence[TensorInfo], way: Way) -> Reading:
    """Take `infos` in one way. Raises `ValueError` where MLX adopts none of its memory."""
    begin = time.perf_counter()
    maps = Maps()
    arrays = [_mapped(maps, info) for info in infos] if way == "mapped" else _read(infos)
    sums = _pages(arrays)
    first = time.perf_counter()
    if _pages(arrays) != sums:
        raise ValueError("other numbers the second time")
    again = time.perf_counter() - first
    return Reading(sums, first - begin, again, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _mapped(maps: Maps, info: TensorInfo) -> mx.array:
    array = maps.adopt(info)
    if array is None:
        raise ValueError(f"MLX does not adopt {info.name}, {info.nbytes} bytes")
    return array


def _read(infos: Sequence[TensorInfo]) -> list[mx.array]:
    files: dict[Path, dict[str, mx.array]] = {}
    for info in infos:
        if info.file not in files:
            files[info.file] = mx.load(str(info.file))  # type: ignore[assignment]  # a dict, for safetensors
    return [files[info.file][info.name] for info in infos]


def _pages(arrays: Sequence[mx.array]) -> str:
    digest = hashlib.sha256()
    for array in arrays:  # one at a time: a sum's partners are not to be the peak
        digest.update(str(array.view(mx.uint8).reshape(-1, PAGE).sum(axis=-1).tolist()).encode())
    return digest.hexdigest()


def main() -> None:
    """The child."""
    folder, way = sys.argv[1:]
    infos = tensors(Path(folder))
    found = measured(infos, "mapped" if way == "mapped" else "read")
    sys.stdout.write(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()

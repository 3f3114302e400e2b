"""Tests in child processes whether mapped weights are correct and faster on this machine.

    python -m qwen3_mlx.checkpoint.try_mapped FOLDER read|mapped

A child sums the bytes of every page of the page-aligned tensors on the device, twice, and prints
the sums, the seconds until the first pass and of the second, and its peak memory. Mapping wins if
its sums are the same, it is faster to the first pass, and neither the second pass nor the peak is
worse. The result is saved beside the kernels' verdicts.
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
from qwen3_mlx.checkpoint.mapped import PAGE, Maps, State, saved_state, verdict_file
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.files import write_atomically

MAX_BYTES = 512 << 20
"""Most bytes that a child reads, because a model may be in memory at the same time."""

GAIN = 1.03
LIMIT_S = 20.0
CHILD = [sys.executable, "-m", "qwen3_mlx.checkpoint.try_mapped"]
"""The child's command. Tests replace it by one in which MLX adopts memory on a CPU too."""

Mode = Literal["read", "mapped"]
ORDER: tuple[Mode, ...] = ("read", "mapped", "mapped", "read")


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one child has measured."""

    sums: str
    """A digest of the sums of all pages, in order."""
    first: float
    """Seconds from the start to the end of the first pass."""
    again: float
    """Seconds of the second pass, which resembles a decode step."""
    peak: int
    """The process's peak memory, in the system's unit."""


def prove(directory: Path, again: bool = True) -> tuple[State, str | None]:
    """Run the trial on the checkpoint in `directory`; returns its result and an error of saving.

    again: repeat the trial even if a result is saved. Raises `CheckpointError`.
    """
    if backend.device() != "metal":
        return State(False, f"MLX adopts memory on Metal only, not on {backend.device()}"), None
    if not tensors(directory):
        return State(False, "no tensor begins at a page; qwen3-mlx convert writes such files"), None
    if not again and (found := saved_state()) is not None:
        return found, None
    state, file = _tried(directory), verdict_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(file, json.dumps(asdict(state)).encode())
    except OSError as error:
        return state, str(error.strerror or error)
    return state, None


def _tried(directory: Path) -> State:
    results: dict[Mode, list[Measurement]] = {"read": [], "mapped": []}
    for mode in ORDER:
        command = [*CHILD, str(directory), mode]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            return State(False, f"{mode}: still running after {LIMIT_S:.0f} s")
        try:
            results[mode].append(Measurement(**json.loads(done.stdout)))
        except (ValueError, TypeError):
            last_line = (done.stderr.strip() or "no word said").splitlines()[-1][:120]
            return State(False, f"{mode}: exit {done.returncode}: {last_line}")
    return decide(results["read"], results["mapped"])


def decide(read: Sequence[Measurement], mapped: Sequence[Measurement]) -> State:
    """Whether mapped weights are correct and, by the medians, faster."""
    if len({one.sums for one in (*mapped, *read)}) != 1:
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


def tensors(directory: Path) -> list[TensorInfo]:
    """Up to `MAX_BYTES` of tensors that fill whole pages. Raises `CheckpointError`."""
    found, taken = [], 0
    for info in checkpoint_tensors(directory).values():
        whole = info.nbytes and not info.offset % PAGE and not info.nbytes % PAGE
        if whole and taken + info.nbytes <= MAX_BYTES:
            found.append(info)
            taken += info.nbytes
    return found


def measured(infos: Sequence[TensorInfo], mode: Mode) -> Measurement:
    """Measure reading or mapping `infos`. Raises `ValueError` if MLX doesn't adopt the memory."""
    begin = time.perf_counter()
    maps = Maps()
    arrays = [_mapped(maps, info) for info in infos] if mode == "mapped" else _read(infos)
    sums = _pages(arrays)
    first = time.perf_counter()
    if _pages(arrays) != sums:
        raise ValueError("other numbers the second time")
    again = time.perf_counter() - first
    return Measurement(
        sums, first - begin, again, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )


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
    for array in arrays:  # one at a time, so that intermediate sums don't add to the peak
        digest.update(str(array.view(mx.uint8).reshape(-1, PAGE).sum(axis=-1).tolist()).encode())
    return digest.hexdigest()


def main() -> None:
    """Run as the child: print one measurement as JSON."""
    folder, mode = sys.argv[1:]
    infos = tensors(Path(folder))
    found = measured(infos, "mapped" if mode == "mapped" else "read")
    sys.stdout.write(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()

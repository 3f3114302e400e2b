"""The machine a model is to run on: how much memory it gives, and how MLX computes there."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from qwen3_mlx.errors import OptionError

_GIB = 2**30  # memory is sold in these, whatever the box says


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a model is to run: what a process may take there, and how MLX computes there."""

    available_bytes: int
    why: str
    float_bytes: int | None = None
    """Width of all floats in memory; None keeps each as stored."""
    fused_attention: bool = True


def mac(gigabytes: float) -> Machine:
    """A Mac with so much unified memory: what macOS lets its GPU take by default.

    That is two thirds up to 36 GB and three quarters above, the values measured most widely
    (10.67 of 16 GB: exo-explore/exo#1672; 75 %: gpustack/gpustack#1375). It is careful: macOS 26
    has been seen to give 107.5 of 128 GB (antirez/ds4#893).
    """
    if not gigabytes > 0:
        raise OptionError("memory", got=gigabytes, expected="a number of GB above 0")
    share, spelled = (2 / 3, "2/3") if gigabytes <= 36 else (3 / 4, "3/4")
    why = f"{spelled} of {gigabytes:g} GB: what macOS lets the GPU take by default"
    return Machine(int(share * gigabytes * _GIB), why)


def this_machine() -> Machine:
    """This machine, asked through MLX. Raises `BackendError` where MLX is missing."""
    from qwen3_mlx import backend  # first: it loads a BLAS before MLX

    device = backend.device()
    if device == "cpu":
        return replace(_main_memory(), float_bytes=4, fused_attention=False)
    return _gpu(device)


def glance() -> Machine:
    """This machine, without importing MLX where that is possible: what lists look at.

    On a Mac it is `mac`'s careful share of the memory, not the GPU's own figure.
    """
    if sys.platform == "darwin":
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return mac(pages / _GIB)
    if Path("/proc/driver/nvidia/version").exists():  # only MLX knows whether it can use it
        return this_machine()
    return replace(_main_memory(), float_bytes=4, fused_attention=False)


def _gpu(device: str) -> Machine:
    import mlx.core as mx

    info = mx.device_info()
    if device == "metal":
        why = "this Mac's recommended GPU working set"
        return Machine(int(info["max_recommended_working_set_size"]), why)
    return Machine(int(info["free_memory"]), "free on this machine's GPU")


def _main_memory() -> Machine:
    """Main memory that is free now, or what the container allows if that is less."""
    free = _meminfo("MemAvailable")
    if free is None:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return Machine(pages, "this machine's memory")
    left = _cgroup_left(Path("/sys/fs/cgroup"))
    if left is not None and left < free:
        return Machine(left, "left of this container's memory")
    return Machine(free, "free memory of this machine")


def _meminfo(key: str) -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    values = (line.split() for line in lines)
    return next((int(value[1]) * 1024 for value in values if value[0] == f"{key}:"), None)


def _cgroup_left(root: Path) -> int | None:
    """Bytes a control group (version 2) still allows, or None without a limit."""
    try:
        limit, used = ((root / name).read_text() for name in ("memory.max", "memory.current"))
        return max(int(limit) - int(used), 0)
    except (OSError, ValueError):
        return None

"""The machine a model is to run on: how much memory it gives, and how MLX computes there."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from qwen3_mlx.errors import OptionError, gb

_GIB = 2**30  # memory is sold in these, whatever the box says
MAC_MEMORY_GB = (8, 16, 18, 24, 32, 36, 48, 64, 96, 128, 192, 256, 512)
"""GB of memory that Macs are sold with."""
LIMIT = "QWEN3_MLX_MEMORY_LIMIT"
"""The variable that holds a process to so many GB of its own, on any machine."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine: the memory a process may take there, and how MLX computes on it."""

    available_bytes: int
    why: str
    float_bytes: int | None = None
    """Width of all floats in memory; None keeps each as stored."""
    fused_attention: bool = True
    unpacks: bool = False
    """Whether its GPU unpacks weights that meet many tokens (`nn.unpacked`)."""


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


def this_machine(swap: bool = False) -> Machine:
    """This machine and what it has left now, asked through MLX.

    What this process holds already is not left; what MLX keeps to use again is, and on the CPU
    backend free `swap` too: slow, but it runs. Raises
    `BackendError` where MLX is missing, `OptionError` for a `LIMIT` that is no number.
    """
    import qwen3_mlx.device.backend as backend  # first: it loads a BLAS before MLX

    import mlx.core as mx

    device = backend.device()
    if device == "cpu":
        place = replace(_main_memory(), float_bytes=4, fused_attention=False)
        more = mx.get_cache_memory() + (_meminfo("SwapFree") or 0 if swap else 0)
        place = replace(place, available_bytes=place.available_bytes + more)
    else:
        from qwen3_mlx.device import unpack_policy

        place = replace(_gpu(device), unpacks=unpack_policy.unpack_mode() != "packed")
    return _limited(place, mx.get_active_memory())


def quick_machine() -> Machine:
    """This machine, for lists of models: MLX is imported only where nothing else knows.

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
        held = mx.get_active_memory()
        why = "this Mac's recommended GPU working set"
        left = int(info["max_recommended_working_set_size"]) - held
        if held > 100_000_000:  # another model's, or a conversation's
            why = f"left of {why}, of which {gb(held)} are in use here"
        return Machine(max(left, 0), why)
    return Machine(int(info["free_memory"]) + mx.get_cache_memory(), "free on this machine's GPU")


def _limited(place: Machine, held: int) -> Machine:
    """`place`, but for no more than the user's own limit leaves beside what is `held`."""
    given = os.environ.get(LIMIT, "")
    if not given:
        return place
    try:
        limit = float(given)
    except ValueError:
        limit = math.nan
    if not limit > 0:
        raise OptionError(LIMIT, got=given, expected="a number of GB above 0")
    left = max(int(1e9 * limit) - held, 0)
    if left >= place.available_bytes:
        return place
    return replace(place, available_bytes=left, why=f"left of the {limit:g} GB that {LIMIT} allows")


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

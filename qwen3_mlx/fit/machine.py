"""The machine on which a model should run: its available memory, and how MLX computes there."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from qwen3_mlx.device.buffer_sizes import COMPOSED_SCORES
from qwen3_mlx.errors import OptionError, gb

_GIB = 2**30  # memory is sold in GiB, though labelled GB
MAC_MEMORY_GB = (8, 16, 18, 24, 32, 36, 48, 64, 96, 128, 192, 256, 512)
"""Memory sizes of Macs in GB."""
LIMIT = "QWEN3_MLX_MEMORY_LIMIT"
"""The environment variable that limits a process's memory, in GB."""
MOST_GB = 1e6
"""More than any machine has; sizes in bytes stay numbers that can be shown."""
EXPECTED = f"a number of GB above 0, at most {MOST_GB:,.0f}"


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine: the memory that a process may take, and how MLX computes."""

    available_bytes: int
    why: str
    float_bytes: int | None = None
    """Bytes of every float in memory; None: as stored."""
    fused_attention: bool = True
    unpacks: bool = False
    """Whether its GPU unpacks weights for many tokens (`nn.unpack`)."""
    composed_scores: int = 0
    """Most bytes of float32 scores of attention that it composes of products."""


def mac(gigabytes: float) -> Machine:
    """A Mac with `gigabytes` of unified memory, of which macOS lets the GPU take a part.

    The part is two thirds up to 36 GB and three quarters above, by public measurements (10.67 of
    16 GB: exo-explore/exo#1672; 75 %: gpustack/gpustack#1375). It is cautious: macOS 26 has given
    107.5 of 128 GB (antirez/ds4#893). Raises `OptionError`.
    """
    if not 0 < gigabytes <= MOST_GB:
        hint = "a Mac's memory, for example: --memory 24"
        raise OptionError("memory", got=gigabytes, expected=EXPECTED, hint=hint)
    share, spelled = (2 / 3, "2/3") if gigabytes <= 36 else (3 / 4, "3/4")
    why = f"{spelled} of {gigabytes:g} GB: what macOS lets the GPU take by default"
    return Machine(int(share * gigabytes * _GIB), why)


def this_machine(swap: bool = False) -> Machine:
    """This machine and its memory available now, by MLX.

    Memory in MLX's cache counts as available and, with `swap` on the CPU backend, free swap too:
    slow, but it works. Raises `BackendError` if MLX is missing, `OptionError` for an invalid
    `LIMIT`.
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

        scores = COMPOSED_SCORES.get(device, 0)
        place = replace(_gpu(device), composed_scores=scores)
        place = replace(place, unpacks=unpack_policy.unpack_mode() != "packed")
    return _apply_limit(place, mx.get_active_memory())


def quick_machine() -> Machine:
    """This machine, for lists of models; imports MLX only with an NVIDIA GPU.

    On a Mac the memory is `mac`'s cautious part, not the GPU's own figure.
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
        in_use = mx.get_active_memory()
        why = "this Mac's recommended GPU working set"
        left = int(info["max_recommended_working_set_size"]) - in_use
        if in_use > 100_000_000:  # another model or conversation in this process
            why = f"left of {why}, of which {gb(in_use)} are in use here"
        return Machine(max(left, 0), why)
    return Machine(int(info["free_memory"]) + mx.get_cache_memory(), "free on this machine's GPU")


def _apply_limit(place: Machine, in_use: int) -> Machine:
    """`place` with at most the memory that `LIMIT` leaves besides the bytes `in_use`."""
    value = os.environ.get(LIMIT, "")
    if not value:
        return place
    try:
        limit = float(value)
    except ValueError:
        limit = math.nan
    if not 0 < limit <= MOST_GB:
        hint = f"unset {LIMIT} for no limit"
        raise OptionError(LIMIT, got=value, expected=EXPECTED, hint=hint)
    left = max(int(1e9 * limit) - in_use, 0)
    if left >= place.available_bytes:
        return place
    return replace(place, available_bytes=left, why=f"left of the {limit:g} GB that {LIMIT} allows")


def _main_memory() -> Machine:
    """The free main memory, or the container's limit if that is less."""
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
    """Bytes that a control group (version 2) still allows; None without a limit."""
    try:
        limit, used = ((root / name).read_text() for name in ("memory.max", "memory.current"))
        return max(int(limit) - int(used), 0)
    except (OSError, ValueError):
        return None

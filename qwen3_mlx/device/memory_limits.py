"""Chooses MLX's memory limits for the device, and sets them once per process."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from qwen3_mlx.device.switches import switch
from qwen3_mlx.errors import gb

WIRED = "QWEN3_MLX_WIRED"
"""The environment variable that requests wired memory, which macOS keeps resident."""


@dataclass(frozen=True, slots=True)
class Limits:
    """MLX's limits in bytes (None: MLX's default), with reasons."""

    memory: int | None
    cache: int | None
    wired: int | None
    why: str
    wired_why: str


def decide(device: str, working_set: int, macos: str, environment: Mapping[str, str]) -> Limits:
    """The limits for a `device` whose GPU may use `working_set` bytes (Metal only).

    Memory: the working set, where MLX's own is 1.5 times that. Beyond its limit MLX waits for
    work under way before it allocates more (transforms.cpp), instead of running ahead into swap.
    Cache: an eighth of the working set, where MLX's own is 1.5 times all of it. A freed buffer
    is kept for reuse, and with a context that grows few are ever used again (17 GB became 243:
    mlx-lm#1118). An eighth holds the scratch of one chunk of a model that fits.
    Wired: not set. mlx-lm wires the whole working set while it generates; the kernel panics of
    mlx#3186 went away, in ten runs of ten, when nothing was wired. `WIRED` set to ``on`` asks for
    it on macOS 15 or later, up to the working set, beyond which MLX refuses.
    Raises `OptionError` for a `WIRED` that is neither ``on`` nor ``off``.
    """
    asked = switch(WIRED, environment) == "on"
    if device != "metal":
        why = f"MLX's own: on {device} they are neither too high nor shared with the screen"
        return Limits(None, None, None, why, "only Metal wires memory")
    wired, wired_why = None, f"off, as mlx#3186 advises; {WIRED}=on asks for it"
    if asked:
        if int(macos.partition(".")[0] or 0) >= 15:
            wired, wired_why = working_set, f"asked for by {WIRED}: {gb(working_set)}"
        else:
            wired_why = f"off: {WIRED} needs macOS 15, this is {macos or 'unknown'}"
    why = f"memory {gb(working_set)} (the GPU's working set), kept for reuse {gb(working_set / 8)}"
    return Limits(working_set, working_set // 8, wired, why, wired_why)


@cache
def apply() -> Limits:
    """Set MLX's limits once per process; returns them."""
    import qwen3_mlx.device.backend as backend  # first: it loads a BLAS before MLX

    import mlx.core as mx

    device = backend.device()
    info = mx.device_info() if device == "metal" else {}
    working_set = int(info.get("max_recommended_working_set_size", 0))
    limits = decide(device, working_set, platform.mac_ver()[0], os.environ)
    if limits.memory is not None:
        mx.set_memory_limit(limits.memory)
    if limits.cache is not None:
        mx.set_cache_limit(limits.cache)
    if limits.wired is not None:
        mx.set_wired_limit(limits.wired)
    return limits

"""Which kernels run here and which don't, and why: the one place that decides.

``QWEN3_MLX_KERNELS`` forces it: ``auto`` lets all run, ``off`` none, names only those. Unset, the
kernels run that `PROVEN` lists for the backend.
"""

from __future__ import annotations

import os
from functools import cache

import qwen3_mlx.device.backend as backend

from qwen3_mlx.errors import OptionError
from qwen3_mlx.metal import launch, probe

KERNELS = {
    "matvec": "matrix times vector, norm before and residual behind it folded in",
    "attend": "attention of one token: norms, rotation, cache and softmax in one launch",
    "attend_packed": "the same from keys and values in 8 or 4 bits",
    "gate_up": "SwiGLU's first two matrices, of one network or of the routed experts",
    "down": "the experts' last matrix, top-k and residual folded in",
    "route": "the router's softmax, top-k and normalisation",
    "gather_matmul": "a prompt's rows, sorted by expert, through the packed experts",
}
"""Every kernel and what it does; `attend_packed` is another cut of `attend`'s text."""

PROVEN: dict[str, frozenset[str]] = {"cuda": frozenset(KERNELS), "metal": frozenset()}
"""Kernels whose present text a run on real hardware has shown right, by backend: an H100 for CUDA
(`benchmarks.gpu --phases accuracy tokens`, docs/kernels.md), no Apple GPU yet."""

STEP = ("matvec", "attend", "gate_up")
"""What the fused decode step of any network needs."""

PACKED = ("attend_packed",)
"""What that needs besides where the cache is packed."""

EXPERTS = ("route", "gate_up", "down")
"""What a fused Mixture of Experts needs."""

PROMPT = ("route", "gather_matmul")
"""What it needs for many tokens."""

STOCK = {("metal", "gather_matmul"): "MLX's own sorted gather_qmm runs on Metal's matrix units"}
"""Kernels that are not wanted on a backend, whatever is asked for, and why."""


def unavailable_reason(*names: str) -> str | None:
    """Why one of these kernels doesn't run here, or None if all do. Raises `OptionError`."""
    return next((reason for name in names if (reason := _unavailable_reason(name))), None)


def _unavailable_reason(name: str) -> str | None:
    choice = os.environ.get("QWEN3_MLX_KERNELS", "")
    if choice and name not in _allowed(choice):
        return "switched off by QWEN3_MLX_KERNELS"
    if launch.executor is not launch.on_gpu:
        return None
    device = backend.device()
    if device == "cpu":
        return "MLX computes on the CPU here, with plain operations"
    if reason := STOCK.get((device, name)):
        return reason
    if not choice and name not in PROVEN[device]:
        return f"not yet proven on {device}; QWEN3_MLX_KERNELS=auto tries it"
    return probe.fault(name)


@cache
def _allowed(choice: str) -> frozenset[str]:
    if choice == "auto":
        return frozenset(KERNELS)
    if choice == "off":
        return frozenset()
    names = frozenset(name.strip() for name in choice.split(","))
    if unknown := sorted(names - set(KERNELS)):
        raise OptionError(
            "QWEN3_MLX_KERNELS",
            got=", ".join(unknown),
            expected=f"auto, off, or names of {', '.join(KERNELS)}",
        )
    return names


def rows() -> list[tuple[str, str, str]]:
    """A row a kernel for people to read: its name, what it does, and whether it runs."""
    return [(name, what, unavailable_reason(name) or "runs") for name, what in KERNELS.items()]

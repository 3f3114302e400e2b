"""Decides which kernels run on this machine, and gives the reason for those that don't.

A kernel runs if this machine's `Verdict` for the network's own sizes says that it is right, and
that decode steps with it are faster than MLX's operations. ``QWEN3_MLX_KERNELS`` overrides the
second condition: ``auto`` runs all kernels that are right, names run those of them, ``off`` none.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

import qwen3_mlx.device.backend as backend

from qwen3_mlx.errors import OptionError
from qwen3_mlx.metal import launch

if TYPE_CHECKING:
    from qwen3_mlx.metal.verdict import Verdict

KERNELS = {
    "matvec": "matrix times vector, norm before and residual behind it folded in",
    "attend": "attention of one token: norms, rotation, cache and softmax in one launch",
    "attend_packed": "the same from keys and values in 8 or 4 bits",
    "gate_up": "SwiGLU's first two matrices, of one network or of the routed experts",
    "down": "the experts' last matrix, top-k and residual folded in",
    "route": "the router's softmax, top-k and normalisation",
    "attend_rows": "attention of 2 to 16 tokens, of several sequences or of one",
    "skinny": "2 to 16 tokens through matrices and experts, the weights read once",
    "gather_matmul": "a prompt's rows, sorted by expert, through the packed experts",
}
"""Every kernel and its task; `attend_packed` and `attend_rows` are variants of `attend`."""

STEP = ("matvec", "attend", "gate_up")
"""The kernels of any network's fused decode step; `attend_packed` for a packed cache."""

HYBRID = ("attend",)
"""The kernels of the hybrid step, which leaves single matrices to MLX's operations."""

EXPERTS = ("route", "gate_up", "down")
"""The kernels of a fused Mixture of Experts."""

PROMPT = ("route", "gather_matmul")
"""The kernels of a Mixture of Experts for many tokens."""

STOCK = {
    ("metal", "gather_matmul"): "MLX's own sorted gather_qmm runs on Metal's matrix units",
    ("metal", "skinny"): "its matrix units are CUDA's; MLX's own products run on Metal",
}
"""Kernels that never run on a backend, whatever the user asks for, and why."""


def unavailable_reason(*names: str, verdict: Verdict | None = None) -> str | None:
    """Why one of these kernels doesn't run here, or None if all run. Raises `OptionError`.

    verdict: this machine's for the network; None if there is none.
    """
    return next((reason for name in names if (reason := _unavailable_reason(name, verdict))), None)


def _unavailable_reason(name: str, verdict: Verdict | None) -> str | None:
    if reason := off_reason(name):
        return reason
    if trusted():
        return None
    if verdict is None:
        return UNTRIED
    return verdict.fault(name) or (None if forced() else _slower(verdict))


UNTRIED = "not yet tried on this machine; qwen3-mlx doctor --prove MODEL tries it"


def _slower(verdict: Verdict) -> str | None:
    if set(verdict.arms()) != {"stock"}:
        return None
    if not verdict.readings:
        return "right, but not yet timed on this machine"
    noise = next((r.noise for r in verdict.readings.values() if r.noise), "")
    return f"undecided: {noise}" if noise else "MLX's own operations are as fast on this machine"


def off_reason(name: str) -> str | None:
    """Why `name` can't run here, whatever the verdict, or None. Raises `OptionError`."""
    choice = os.environ.get("QWEN3_MLX_KERNELS", "")
    if choice and name not in _allowed(choice):
        return "switched off by QWEN3_MLX_KERNELS"
    if trusted():
        return None
    device = backend.device()
    if device == "cpu":
        return "MLX computes on the CPU here, with plain operations"
    return STOCK.get((device, name))


def forced() -> bool:
    """Whether the user chose the kernels, so that none is timed. Raises `OptionError`."""
    choice = os.environ.get("QWEN3_MLX_KERNELS", "")
    return bool(choice and _allowed(choice))


def trusted() -> bool:
    """Whether a trusted executor other than MLX's GPU runs the launches, so no proof is needed."""
    return launch.executor is not launch.on_gpu and launch.trusted


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
            hint="unset QWEN3_MLX_KERNELS: kernels run where they were found right and faster",
        )
    return names


def rows(verdict: Verdict | None = None) -> list[tuple[str, str, str]]:
    """A readable row per kernel: its name, its task, and "runs" or why it doesn't."""
    return [
        (name, what, unavailable_reason(name, verdict=verdict) or "runs")
        for name, what in KERNELS.items()
    ]

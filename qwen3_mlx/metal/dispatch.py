"""Which kernels run here and which don't, and why: the one place that decides.

A kernel runs where a `Verdict` of this machine, for the network's own sizes, says that it is right
and that decode steps with it are faster than MLX's operations. ``QWEN3_MLX_KERNELS`` overrides what
is faster: ``auto`` takes all that are right, names only those of them, ``off`` none.
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
"""Every kernel and what it does; `attend_packed` and `attend_rows` are cuts of `attend`'s text."""

STEP = ("matvec", "attend", "gate_up")
"""What the fused decode step of any network needs; where the cache is packed `attend_packed`."""

HYBRID = ("attend",)
"""The same of the step that leaves single matrices to MLX's operations."""

EXPERTS = ("route", "gate_up", "down")
"""What a fused Mixture of Experts needs."""

PROMPT = ("route", "gather_matmul")
"""What it needs for many tokens."""

STOCK = {
    ("metal", "gather_matmul"): "MLX's own sorted gather_qmm runs on Metal's matrix units",
    ("metal", "skinny"): "its matrix units are CUDA's; MLX's own products run on Metal",
}
"""Kernels that are not wanted on a backend, whatever is asked for, and why."""


def unavailable_reason(*names: str, verdict: Verdict | None = None) -> str | None:
    """Why one of these kernels doesn't run here, or None if all do. Raises `OptionError`.

    verdict: this machine's on the network that asks; None where there is none.
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
    """Why `name` can't run here whatever a verdict says, or None. Raises `OptionError`."""
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
    """Whether the user said which kernels run: then none is timed. Raises `OptionError`."""
    choice = os.environ.get("QWEN3_MLX_KERNELS", "")
    return bool(choice and _allowed(choice))


def trusted() -> bool:
    """Whether something else than MLX's GPU runs the launches: what put it there answers for it."""
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
        )
    return names


def rows(verdict: Verdict | None = None) -> list[tuple[str, str, str]]:
    """A row a kernel for people to read: its name, what it does, and whether it runs."""
    return [
        (name, what, unavailable_reason(name, verdict=verdict) or "runs")
        for name, what in KERNELS.items()
    ]

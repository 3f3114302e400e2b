"""Imports MLX behind an optimized BLAS; raises one clear line if this machine has no MLX.

Every module that computes imports this one before it imports ``mlx``.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

from qwen3_mlx.device import blas
from qwen3_mlx.device.compile import can_compile
from qwen3_mlx.device.interrupts import interrupts_held
from qwen3_mlx.errors import BackendError

_INSTALL = "pip install 'qwen3-mlx[cpu]' (or [cuda12], [cuda13] on a machine with an NVIDIA GPU)"


with interrupts_held():  # the threads that both make leave Ctrl-C to the main one
    BLAS = blas.load()
    """The BLAS loaded for MLX's CPU backend, or None."""

    try:
        import mlx.core as mx
    except ImportError as error:
        first = str(error).splitlines()[0]
        raise BackendError(
            "MLX has no backend on this machine", got=first, hint=f"run: {_INSTALL}"
        ) from None


def device() -> str:
    """Where MLX computes: ``"metal"``, ``"cuda"`` or ``"cpu"``."""
    if mx.default_device() == mx.Device(mx.DeviceType.cpu):
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


if device() == "cpu" and not can_compile(version("mlx")):
    mx.disable_compile()  # the same numbers, each operation by itself


@cache
def find_compiler() -> None:
    """Have MLX's CPU backend look for its C++ compiler now; a Ctrl-C meanwhile comes behind it.

    MLX does so once, at its first ``mx.compile``, with C's ``system``, under which the operating
    system drops a Ctrl-C: one in the first 50 ms of the first turn did nothing.
    """
    if device() == "cpu":
        with interrupts_held():
            mx.compile(mx.square)(mx.array(1.0))


def compute_dtype(stored: mx.Dtype) -> tuple[mx.Dtype, str]:
    """The dtype a network stored as `stored` computes in, and why."""
    if device() == "cpu":
        return mx.float32, "MLX's CPU backend has gather_mm in float32 only, and is fastest there"
    return stored, "as stored"

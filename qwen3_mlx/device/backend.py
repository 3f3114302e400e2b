"""Imports MLX after an optimized BLAS; raises `BackendError` if this machine has no MLX.

Every module that computes imports this one before it imports ``mlx``.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.metadata import version

from qwen3_mlx.device import blas
from qwen3_mlx.device.compile import can_compile
from qwen3_mlx.device.interrupts import interrupts_held
from qwen3_mlx.errors import BackendError

_INSTALL = "pip install 'qwen3-mlx[cpu]' (or [cuda12], [cuda13] on a machine with an NVIDIA GPU)"


with interrupts_held():  # threads started by both leave Ctrl-C to the main thread
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
    """The device on which MLX computes: ``"metal"``, ``"cuda"`` or ``"cpu"``."""
    if mx.default_device() == mx.Device(mx.DeviceType.cpu):
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


if device() == "cuda":
    # MLX gives an H100 its work 100 operations at a time, and meanwhile the GPU idles wherever the
    # next step waits for a token: behind drafts, a grammar, a probe. With 45 such a step takes 4.4
    # to 4.5 ms of 8B for 5.0 to 5.2; steps that don't wait take the same (`docs/log.md`).
    os.environ.setdefault("MLX_MAX_OPS_PER_BUFFER", "45")

if device() == "cpu" and not can_compile(version("mlx")):
    mx.disable_compile()  # the results are the same without fusion


@cache
def find_compiler() -> None:
    """Make MLX's CPU backend search for its C++ compiler now, with Ctrl-C deferred.

    MLX does so at its first ``mx.compile`` by C's ``system``, which discards a Ctrl-C: one in the
    first 50 ms of the first turn had no effect.
    """
    if device() == "cpu":
        with interrupts_held():
            mx.compile(mx.square)(mx.array(1.0))


def compute_dtype(stored: mx.Dtype) -> tuple[mx.Dtype, str]:
    """The compute dtype of a network stored in `stored`, and the reason."""
    if device() == "cpu":
        return mx.float32, "MLX's CPU backend has gather_mm in float32 only, and is fastest there"
    return stored, "as stored"

"""The door to MLX: an optimized BLAS first, then MLX itself, or one clear line why not.

Every package of ours that computes imports this module before it imports ``mlx``.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys

from qwen3_mlx.device import command_buffers
from qwen3_mlx.errors import BackendError

_BLAS = ("libopenblas.so.0", "libopenblas.so", "libmkl_rt.so.2", "libmkl_rt.so")
_BLAS_WAITS = "20"
"""OpenBLAS's threads wait for work by spinning, 2^28 cycles unless told otherwise: while a small
model decodes they take a core all the time, which is the interface's. 2^20 are 0.4 ms."""
_INSTALL = "pip install 'qwen3-mlx[cpu]' (or [cuda12], [cuda13] on a machine with an NVIDIA GPU)"


def _load_blas() -> str | None:
    """Load an optimized BLAS so that MLX's CPU backend uses it; returns its name.

    MLX's Linux wheel links the reference BLAS through plain ``cblas_sgemm`` symbols, so a
    library loaded earlier with global visibility takes its place: forty times faster matrix
    products. ``QWEN3_MLX_BLAS`` names another library, or ``off``.
    """
    choice = os.environ.get("QWEN3_MLX_BLAS", "")
    if sys.platform != "linux" or choice == "off":
        return None
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", _BLAS_WAITS)
    for name in [choice] if choice else _BLAS:
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return name
    return None


BLAS = _load_blas()
"""The BLAS loaded for MLX's CPU backend, or None."""

LIMITS = command_buffers.apply()
"""Why Metal's command buffers hold as much as they do."""

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


def compute_dtype(stored: mx.Dtype) -> tuple[mx.Dtype, str]:
    """The dtype a network stored as `stored` computes in, and why."""
    if device() == "cpu":
        return mx.float32, "MLX's CPU backend has gather_mm in float32 only, and is fastest there"
    return stored, "as stored"

"""Refuses to compute in a process forked after MLX was used.

Such a process has MLX's state without its threads, so any computation would hang. Python up to 3.13
starts processes on Linux by ``fork``.
"""

from __future__ import annotations

import os

from qwen3_mlx.errors import BackendError


class _Process:
    has_computed = False
    is_forked = False


def _in_child() -> None:
    _Process.is_forked = _Process.has_computed


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def about_to_compute() -> None:
    """Note that this process uses MLX. Raises `BackendError` in a forked child."""
    if _Process.is_forked:
        hint = "start it with multiprocessing.get_context('spawn'), and load the model in it"
        raise BackendError("MLX can't compute in a process forked after it was used", hint=hint)
    _Process.has_computed = True

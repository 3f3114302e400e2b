"""A process that is forked after MLX has computed has MLX's state without its threads.

Whatever it computes then waits for ever, so the child refuses. ``fork`` is how Python starts
processes on Linux up to 3.13.
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
    """Note that MLX is used from here on. Raises `BackendError` where that would hang."""
    if _Process.is_forked:
        hint = "start it with multiprocessing.get_context('spawn'), and load the model in it"
        raise BackendError("MLX can't compute in a process forked after it was used", hint=hint)
    _Process.has_computed = True

"""Decides whether and how packed weights are unpacked before a product with many rows.

The environment variable ``QWEN3_MLX_PREFILL`` forces one of `UNPACK_MODES`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import qwen3_mlx.device.backend as backend

from qwen3_mlx.device.buffer_sizes import UNPACK_ROWS, UNPACK_ROWS_PER_EXPERT
from qwen3_mlx.errors import OptionError

VARIABLE = "QWEN3_MLX_PREFILL"
"""The environment variable that forces a mode."""

UNPACK_MODES = {
    "packed": "weights stay packed: MLX's own packed products",
    "each": "weights are unpacked, experts multiplied one after another",
    "grouped": "weights are unpacked, experts multiplied in MLX's grouped product",
}
"""The modes and their descriptions. All but the first unpack single matrices. They apply to experts
only if `metal.gather_matmul`, which unpacks nothing, doesn't run."""

DEFAULT = {"cpu": "each", "cuda": "grouped", "metal": "packed"}
"""The fastest measured modes; Metal isn't measured yet (`benchmarks.gpu` can)."""


@dataclass(frozen=True, slots=True)
class UnpackPolicy:
    """The rows from which weights are unpacked, and how experts are then multiplied."""

    rows: int
    rows_an_expert: int
    one_expert_at_a_time: bool
    """If False, MLX's grouped product takes as many experts as may be unpacked at once."""
    waits: bool
    """Whether each product is evaluated at once, so that only one unpacked matrix is alive."""


def is_forced() -> bool:
    """Whether `VARIABLE` forces a mode."""
    return os.environ.get(VARIABLE, "auto") not in ("", "auto")


def unpack_mode() -> str:
    """This device's mode, a key of `UNPACK_MODES`. Raises `OptionError`."""
    choice = os.environ.get(VARIABLE) or "auto"
    if choice == "auto":
        return DEFAULT[backend.device()]
    if choice not in UNPACK_MODES:
        expected = f"auto, {', '.join(UNPACK_MODES)}"
        raise OptionError(VARIABLE, got=choice, expected=expected, hint=f"unset {VARIABLE}")
    return choice


def choose_policy() -> UnpackPolicy | None:
    """The policy for this device and mode; None: weights stay packed. Raises `OptionError`."""
    mode, device = unpack_mode(), backend.device()
    if mode == "packed":
        return None
    return UnpackPolicy(
        UNPACK_ROWS[device], UNPACK_ROWS_PER_EXPERT[device], mode == "each", device == "cpu"
    )


def explain() -> str:
    """A text for `doctor`: the mode, its thresholds, and the reason."""
    mode, device = unpack_mode(), backend.device()
    if mode == "packed":
        forced = f"as {VARIABLE} says" if is_forced() else f"others are not measured on {device}"
        return f"{UNPACK_MODES[mode]} ({forced}; {VARIABLE}=grouped tries unpacking)"
    rows, each = UNPACK_ROWS[device], UNPACK_ROWS_PER_EXPERT[device]
    text = f"{UNPACK_MODES[mode]}, from {rows} rows, or {each} an expert"
    if mode == "grouped" and device == "cuda" and os.environ.get("MLX_ENABLE_TF32") == "0":
        text += "; MLX_ENABLE_TF32=0 makes MLX's grouped product slow in every dtype"
    return text

"""Whether packed weights that meet many rows are unpacked first, and how: decided here only.

``QWEN3_MLX_PREFILL`` forces it: the name of one of `WAYS`.
"""

from __future__ import annotations

import os

import qwen3_mlx.device.backend as backend

from qwen3_mlx.errors import OptionError

UNPACK_MODES = {
    "packed": "weights stay packed: MLX's own packed products",
    "each": "weights are unpacked, experts multiplied one after another",
    "grouped": "weights are unpacked, experts multiplied in MLX's grouped product",
}
"""How many rows meet packed weights. A matrix of its own is unpacked in all but the first. Experts
come here only where `metal.gather_matmul`, which unpacks nothing, doesn't run."""

DEFAULT = {"cpu": "each", "cuda": "grouped", "metal": "packed"}
"""What has been measured to pay; on Metal nothing yet (`benchmarks.gpu` measures it)."""

ROWS = {"cpu": 8, "cuda": 128, "metal": 512}
"""Rows from which unpacking a matrix pays. CPU: measured, 17 ms against 5 at 8 rows of a 3072x1024
matrix. CUDA: computed from 106 TFLOP/s packed, 500 plain and 4.6 bytes a weight at 3.5 TB/s (87
rows). Metal: a guess."""

ROWS_AN_EXPERT = {"cpu": 4, "cuda": 8, "metal": 64}
"""Rows for each expert, on average, from which unpacking all experts pays. CPU: measured. CUDA:
computed from 2.2 µs a row packed and 1.2 ms for all 128 experts of 30B-A3B (4.3). Metal: a guess.
"""


def is_forced() -> bool:
    """Whether the user has said which way is to be taken."""
    return os.environ.get("QWEN3_MLX_PREFILL", "auto") not in ("", "auto")


def unpack_mode() -> str:
    """The one of `WAYS` that is taken here where rows are many. Raises `OptionError`."""
    choice = os.environ.get("QWEN3_MLX_PREFILL") or "auto"
    if choice == "auto":
        return DEFAULT[backend.device()]
    if choice not in UNPACK_MODES:
        expected = f"auto, {', '.join(UNPACK_MODES)}"
        raise OptionError("QWEN3_MLX_PREFILL", got=choice, expected=expected)
    return choice

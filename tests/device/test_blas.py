"""The BLAS under MLX's CPU backend: its threads sleep when there is nothing to do."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from qwen3_mlx.device import backend

WAITS = """
import sys, time
from qwen3_mlx import backend
import mlx.core as mx
mx.set_default_device(mx.cpu)
square = mx.ones((1024, 1024))
mx.eval(square @ square)
before = time.process_time()
time.sleep(0.3)
sys.stdout.write(str(time.process_time() - before))
"""


def waited() -> float:
    """Processor seconds that 0.3 s of waiting behind a matrix product took."""
    unset = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    command = [sys.executable, "-c", WAITS]
    return float(subprocess.check_output(command, env=unset, text=True))


@pytest.mark.skipif(
    "openblas" not in (backend.BLAS or "") or os.cpu_count() == 1,
    reason="no OpenBLAS with threads on this machine",
)
def test_idle_threads_sleep() -> None:
    assert waited() < 0.03

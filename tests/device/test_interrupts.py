"""Ctrl-C while MLX looks for its compiler comes behind it, and isn't lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, signal
from qwen3_mlx.device import backend
pressed = []
signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
os.environ["INTERRUPTED"] = str(os.getpid())
backend.find_compiler()
print(pressed, signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="MLX's CPU backend compiles there")
def test_ctrl_c_while_mlx_looks_for_its_compiler(tmp_path: Path) -> None:
    compiler = tmp_path / "g++"
    compiler.write_text('#!/bin/sh\nkill -INT "$INTERRUPTED"\n')
    compiler.chmod(0o755)
    own = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    own.pop("OPENBLAS_NUM_THREADS", None)  # its threads must leave the signal alone, too
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=own, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[1] set()\n"

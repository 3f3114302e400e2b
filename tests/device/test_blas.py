"""The BLAS under MLX's CPU backend: MLX's calls reach it, and its idle threads sleep."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.device import backend, blas
from qwen3_mlx.errors import OptionError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="macOS has Accelerate")

PROGRAM = """
import ctypes, json, sys, time
from qwen3_mlx.device import backend
import mlx.core as mx
mx.set_default_device(mx.cpu)
square = mx.ones((1024, 1024))
mx.eval(square @ square)
before = time.process_time()
time.sleep(0.3)
spun = time.process_time() - before
functions = ["cblas_sgemm", "cblas_dgemm", "cblas_cgemm"]
addresses = lambda library, prefix="": [
    ctypes.cast(library[prefix + name], ctypes.c_void_p).value for name in functions
]
found = {"blas": backend.BLAS, "spun": spun, "right": (square @ square)[5, 7].item() == 1024}
if "scipy" in (backend.BLAS or ""):
    loaded = ctypes.CDLL(backend.BLAS)
    found["reached"] = addresses(ctypes.CDLL(None)) == addresses(loaded, "scipy_")
sys.stdout.write(json.dumps(found))
"""


def run(choice: str) -> dict[str, Any]:
    """Multiply in a process of its own, then wait for 0.3 s."""
    unset = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    command = [sys.executable, "-c", PROGRAM]
    output = subprocess.check_output(command, env=unset | {"QWEN3_MLX_BLAS": choice}, text=True)
    found: dict[str, Any] = json.loads(output)
    return found


def from_pip() -> str:
    import scipy_openblas32

    return str(Path(scipy_openblas32.get_lib_dir(), scipy_openblas32.get_library(fullname=True)))


def test_mlx_reaches_the_library_that_pip_brings() -> None:
    """Its names begin with scipy_; MLX looks for the plain ones."""
    found = run(from_pip())
    assert found["blas"] == from_pip()
    assert found["reached"]
    assert found["right"]
    assert found["spun"] < 0.03  # its idle threads sleep


@pytest.mark.skipif(
    "openblas" not in (backend.BLAS or ""), reason="this machine's BLAS is no OpenBLAS"
)
def test_idle_threads_sleep() -> None:
    assert run("")["spun"] < 0.03


@pytest.mark.parametrize(
    ("text", "kernels"),
    [
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2 {wide}\n", "SkylakeX"),
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2 avx512f\n", None),
        ("vendor_id\t: GenuineIntel\nflags\t\t: fpu avx2 {wide}\n", None),
        ("processor\t: 0\nFeatures\t: fp asimd\n", None),
        ("", None),
    ],
)
def test_amds_processors_with_wide_registers_get_kernels_for_them(
    tmp_path: Path, text: str, kernels: str | None
) -> None:
    wide = "avx512f avx512dq avx512cd avx512bw avx512vl"
    processor = tmp_path / "cpuinfo"
    processor.write_text(text.format(wide=wide), "utf-8")
    assert blas._kernels(processor) == kernels
    assert blas._kernels(tmp_path / "none") is None


def test_kernels_that_a_user_chose_stay() -> None:
    code = "import os; from qwen3_mlx.device import blas; blas.load();"
    code += "print(os.environ['OPENBLAS_CORETYPE'])"
    own = os.environ | {"OPENBLAS_CORETYPE": "Haswell"}
    said = subprocess.check_output([sys.executable, "-c", code], env=own, text=True)
    assert said.strip() == "Haswell"


def test_without_a_library_mlx_keeps_its_own() -> None:
    found = run("off")
    assert found["blas"] is None
    assert found["right"]


def test_a_library_that_can_not_be_loaded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN3_MLX_BLAS", "libno-such-blas.so")
    with pytest.raises(OptionError, match="expected off, or a BLAS that the loader finds"):
        blas.load()


def test_a_library_comes_with_the_environment() -> None:
    """The development group and the cpu extra bring one: nobody computes forty times slower."""
    assert backend.BLAS is not None or os.environ.get("QWEN3_MLX_BLAS") == "off"

"""Loads an optimized BLAS for MLX's CPU backend: the system's, or the one installed by pip.

MLX's Linux wheel links the reference BLAS by plain names (``cblas_sgemm``). A library that is
loaded before MLX with global visibility replaces it: matrix products take a fortieth of the time.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Mapping
from pathlib import Path

from qwen3_mlx.errors import OptionError, shown

_INSTALLED = ("libopenblas.so.0", "libopenblas.so", "libmkl_rt.so.2", "libmkl_rt.so")
_SPIN_CYCLES = "20"
"""OpenBLAS's threads spin while waiting, by default for 2^28 cycles: while a small model decodes,
they would take the interface's core. 2^20 cycles are 0.4 ms."""

_WIDE = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
"""What a processor must have for OpenBLAS's kernels named SkylakeX."""

_FUNCTIONS = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")
"""All BLAS functions that MLX calls."""
_PREFIX = "scipy_"
"""The prefix of scipy-openblas32's symbols, which keeps it from replacing another BLAS."""
_MACHINES = {"x86_64": 62, "aarch64": 183}
"""ELF machine numbers of the processors that MLX's Linux wheels support."""


def load() -> str | None:
    """Load a BLAS; returns its name, or None if MLX uses its own. Call it before importing MLX.

    ``QWEN3_MLX_BLAS`` names a library (a path or a name for the loader), or is ``off``. Raises
    `OptionError` for one that can't be loaded: without it MLX is forty times slower.
    """
    choice = os.environ.get("QWEN3_MLX_BLAS", "")
    if sys.platform != "linux" or choice == "off":
        return None
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", _SPIN_CYCLES)
    if kernels := _kernels(Path("/proc/cpuinfo")):
        os.environ.setdefault("OPENBLAS_CORETYPE", kernels)
    if choice:
        if not _open(choice):
            expected = "off, or a BLAS that the loader finds: its path or its name"
            hint = "unset QWEN3_MLX_BLAS"
            raise OptionError("QWEN3_MLX_BLAS", got=shown(choice), expected=expected, hint=hint)
        return choice
    return next(filter(_open, [*_INSTALLED, *_from_pip()]), None)


def _kernels(processor: Path) -> str | None:
    """OpenBLAS's kernels for AMD's processors with AVX-512, which many builds take for older ones.

    Theirs pack the weights anew for each product, also for one row: a token of the demo takes
    1.6 times as long. None where OpenBLAS is left to choose.
    """
    try:
        lines = processor.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    fields = {name.strip(): value for name, _, value in (line.partition(":") for line in lines)}
    amd = fields.get("vendor_id", "").strip() == "AuthenticAMD"
    return "SkylakeX" if amd and set(fields.get("flags", "").split()) >= _WIDE else None


def _from_pip() -> list[str]:
    try:
        import scipy_openblas32
    except (ImportError, OSError):
        return []
    return [str(Path(scipy_openblas32.get_lib_dir(), scipy_openblas32.get_library(True)))]


def _open(name: str) -> bool:
    """Load one library; returns whether MLX will call it."""
    try:
        library = ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        if not hasattr(library, _PREFIX + _FUNCTIONS[0]):
            return True
        addresses = {
            function: ctypes.cast(library[_PREFIX + function], ctypes.c_void_p).value or 0
            for function in _FUNCTIONS
        }
        _publish(addresses)
    except (AttributeError, KeyError, OSError):
        return False
    return True


def _publish(addresses: Mapping[str, int]) -> None:
    """Define symbols for addresses in this process, visible to libraries loaded later."""
    file = os.memfd_create("blas-names")
    try:
        os.write(file, names_library(addresses, _MACHINES[platform.machine()]))
        ctypes.CDLL(f"/proc/self/fd/{file}", mode=ctypes.RTLD_GLOBAL)
    finally:
        os.close(file)


def names_library(addresses: Mapping[str, int], machine: int) -> bytes:
    """A shared library with absolute symbols and no code: a 64-bit little-endian ELF file.

    Three program headers (load, dynamic, non-executable stack), then the symbol table, its hash
    table (one bucket with a chain of all symbols), the names, and the dynamic section.
    """
    text, symbols, count = b"\0", bytes(24), len(addresses) + 1
    for name, address in addresses.items():
        symbols += struct.pack("<IBBHQQ", len(text), 0x12, 0, 0xFFF1, address, 0)  # GLOBAL, ABS
        text += name.encode() + b"\0"
    chain = [0, *range(2, count), 0]
    hashes = struct.pack(f"<{3 + count}I", 1, count, 1, *chain)
    symbols_at = 64 + 3 * 56
    hashes_at = symbols_at + len(symbols)
    text_at = hashes_at + len(hashes)
    dynamic_at = -(-(text_at + len(text)) // 16) * 16
    table = {6: symbols_at, 11: 24, 4: hashes_at, 5: text_at, 10: len(text), 0: 0}
    dynamic = b"".join(struct.pack("<qQ", *entry) for entry in table.items())
    size, page = dynamic_at + len(dynamic), 0x10000
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head += struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, 0, 64, 56, 3, 64, 0, 0)
    head += struct.pack("<IIQQQQQQ", 1, 6, 0, 0, 0, size, size, page)
    head += struct.pack("<IIQQQQQQ", 2, 6, *[dynamic_at] * 3, *[len(dynamic)] * 2, 8)
    head += struct.pack("<IIQQQQQQ", 0x6474E551, 6, 0, 0, 0, 0, 0, 16)
    return (head + symbols + hashes + text).ljust(dynamic_at, b"\0") + dynamic

"""A proof's child on the processor's shim, and what may go wrong in one.

QWEN3_TEST_FAULT: ``wrong`` (a kernel's text gives other numbers), ``refused`` (a launch throws),
``hang``, ``segfault``, ``exit``, ``memory`` (none is left), ``killed``; each in the first launch of
`attend`. ``cut``: `gate_up` is wrong where eight simdgroups share it. ``hang rows``: the child of
the kernels of several rows hangs.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from qwen3_mlx.metal import attend, cases, cases_rows, launch, prove
from qwen3_mlx.metal.launch import Launch
from qwen3_mlx.metal.matrix import float_bits
from tests.metal.harness import on_cpu

FAULT = os.environ.get("QWEN3_TEST_FAULT", "")


def faulty(given: Launch) -> list[mx.array]:
    if FAULT == "cut" and given.kernel == "gate_up" and given.constants["SIMDS"] == 8:
        return on_cpu(replace(given, constants={**given.constants, "EPS": float_bits(0.01)}))
    if FAULT == "hang rows" and sys.argv[1:] == ["attend_rows"]:
        time.sleep(600)
    if given.kernel != "attend" or FAULT in ("", "cut", "hang rows"):
        return on_cpu(given)
    if FAULT == "refused":
        raise ValueError("Thread group size (512) is greater than  the maximum allowed (448)")
    if FAULT == "hang":
        time.sleep(600)
    if FAULT == "segfault":
        os.kill(os.getpid(), 11)
    if FAULT == "memory":
        raise RuntimeError("[malloc] Unable to allocate 99 bytes.")
    if FAULT == "killed":
        os.kill(os.getpid(), 9)
    if FAULT == "exit":
        os._exit(3)
    return on_cpu(replace(given, constants={**given.constants, "EPS": float_bits(0.01)}))


if __name__ == "__main__":
    launch.executor = faulty
    backend.device = lambda: "metal"
    mx.disable_compile()
    attend.TAIL = 3
    if few := os.environ.get("QWEN3_TEST_PASTS"):
        cases.PASTS = tuple(map(int, few.split()))
        cases_rows.PASTS = cases.PASTS[-1:]
    prove.main()

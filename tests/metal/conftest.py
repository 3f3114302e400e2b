"""Kernels run for every test here: on the GPU where there is one, else as Metal text on the CPU."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import qwen3_mlx.device.backend as backend

import pytest

from qwen3_mlx.fit import machine
from qwen3_mlx.metal import attend, launch, prove, tuning
from qwen3_mlx.metal.launch import Launch
from qwen3_mlx.metal.tuning import AttendCut
from qwen3_mlx.nn import fused_step, trial
from tests.metal import harness
from tests.metal.harness import executing


@pytest.fixture(autouse=True, scope="module")
def shim_stays_here() -> Iterator[None]:
    """The tests behind these run what users do: kernels as text take sixty times as long."""
    with harness.reading_together():
        yield
    assert launch.executor is launch.on_gpu
    harness.end_program()


@pytest.fixture(autouse=True)
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Launch]]:
    with executing() as made:
        yield made
        monkeypatch.undo()  # while the shim is there: later it would put the shim back


@pytest.fixture
def mutate(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """``mutate(file, old, new)``: break a kernel's text for the rest of the test.

    Metal's rules are let be: a mutant must be noticed by what it computes.
    """
    text = launch.text

    def put(file: str, old: str, new: str) -> None:
        broken = text(file).replace(old, new)
        assert broken != text(file), f"{file} has no {old!r}"
        monkeypatch.setattr(launch, "text", lambda name: broken if name == file else text(name))
        monkeypatch.setattr(launch, "kernel", launch.kernel.__wrapped__)
        monkeypatch.setattr(harness, "hold_to_metal", lambda *_: None)

    return put


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrix kernels as on CUDA: activations go through threadgroup memory."""
    monkeypatch.setattr(tuning, "staged", lambda: True)


@pytest.fixture
def attend_cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """``attend_cut(lanes, queries)``: `attend` cut so, wherever the past is split or not."""

    def put(lanes: int, queries: int) -> None:
        def cut(group: int, dim: int, row_bytes: int, sharing: int) -> AttendCut:
            return AttendCut(min(lanes, dim), math.gcd(queries, group), 8)

        monkeypatch.setattr(tuning, "attend", cut)

    return put


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Kernels run by verdict alone, kept in a folder of the test's; children run on the shim."""
    monkeypatch.setattr(launch, "trusted", False)
    monkeypatch.setattr(backend, "device", lambda: "metal")
    monkeypatch.setattr(backend, "compute_dtype", lambda stored: (stored, "for a test"))
    monkeypatch.setattr(prove, "CHILD", [sys.executable, "-m", "tests.metal.prove_on_shim"])
    monkeypatch.setattr(machine, "this_machine", lambda **_: machine.Machine(10**10, "a test"))
    monkeypatch.setattr(attend, "TAIL", 3)
    monkeypatch.setattr(trial, "PASTS", (5, 9))
    monkeypatch.setattr(fused_step, "LONG", 7)
    monkeypatch.setenv("QWEN3_MLX_HOME", str(tmp_path))
    monkeypatch.setenv("QWEN3_TEST_PASTS", "0 4")
    monkeypatch.delenv("QWEN3_MLX_KERNELS", raising=False)

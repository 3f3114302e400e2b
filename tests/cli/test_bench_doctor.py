"""bench and doctor: what they print, without a model's download."""

from __future__ import annotations

import pytest

from qwen3_mlx.cli import bench, doctor
from qwen3_mlx.metal import dispatch


def test_doctor_says_what_runs_and_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run() == 0
    said = capsys.readouterr().out
    assert "command buffers" in said
    assert "\n  prefill, packed  weights are unpacked" in said
    assert "\n  decode, experts  plain operations: MLX computes on the CPU" in said
    for name in dispatch.KERNELS:
        assert f"\n  {name} " in said


def test_bench_measures_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run("demo", None, context=8, tokens=4, rounds=2) == 0
    *_, head, _, row = capsys.readouterr().out.splitlines()
    assert head == "| | prefill tok/s | decode tok/s |"
    assert row.startswith("| qwen3-mlx | ")


def test_a_noisy_column_is_marked() -> None:
    text = bench.table({"a": [(100.0, 10.0), (100.5, 20.0)], "b": [(1.0, 1.0)]})
    assert "| a | 100.2 | 15.0 (± 33 %) |" in text
    assert "| b | 1.0 | 1.0 |" in text

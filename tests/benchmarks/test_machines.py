"""The script of two cards: here a phase runs over the ring, in two processes."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import pytest

from benchmarks.machines import __main__ as driver
from tests import ring


def arguments(out: Path) -> argparse.Namespace:
    return argparse.Namespace(out=out, tiny=True, size=2, cuda=False)


def test_two_processes_give_one_s_tokens(tmp_path: Path) -> None:
    ended = driver.run(driver.PHASES[0], 60, arguments(tmp_path), ring.patience())
    assert ended.startswith("done"), ended
    found = json.loads((tmp_path / "machines-exact.json").read_text())["results"]
    assert len(found) == 4
    assert all(row["same tokens"] and row["NMSE"] <= 1e-11 for row in found.values())


def test_a_phase_that_takes_too_long_leaves_no_process(tmp_path: Path) -> None:
    ended = driver.run(driver.Phase("sums", 0.3), 60, arguments(tmp_path), {})
    assert ended.startswith("cut")


def test_the_best_settings_are_those_of_the_fastest_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    assert driver.best() == {}

    def put(name: str, total: float) -> None:
        text = json.dumps({"results": {"sum": {"total": total}}})
        (tmp_path / f"machines-{name}.json").write_text(text)

    put("sums", 260.0)
    put("sums-one-cta", 250.0)
    assert driver.best() == {}  # within a tenth
    put("sums-no-graphs", 20.0)
    assert driver.best() == {"MLX_USE_CUDA_GRAPHS": "0"}
    assert os.environ.get("MLX_USE_CUDA_GRAPHS") is None

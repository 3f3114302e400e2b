"""The script of a GPU session: what it concludes, what a cut leaves, that a phase runs here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import memory
from benchmarks.gpu import __main__ as gpu


@pytest.fixture(autouse=True)
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OUT", str(tmp_path))
    return tmp_path


def put(out: Path, phase: str, results: dict[str, Any]) -> None:
    (out / f"gpu-{phase}.json").write_text(json.dumps({"results": results}))


def rate(value: float) -> dict[str, Any]:
    return {"decode": {"median": value}}


def test_nothing_read_is_no_success() -> None:
    said = gpu.verdicts()
    assert set(said.values()) == {"not read"}


def test_targets_are_stated_with_what_was_read(out: Path) -> None:
    median = {"median": 2.0}
    put(
        out,
        "moe",
        {
            "decode 30b-a3b": {"fused": rate(300.0), "mlx-lm": rate(80.0)},
            "prefill 30b-a3b": {"auto": {"median": 9.0}, "mlx-lm": {"median": 1.0}},
            "blocks fused+empty+stock": {
                "T=2": {"fused": {"median": 30.0}, "empty": median, "stock": {"median": 90.0}}
            },
            "failed blocks": "a word",
        },
    )
    bad = {"worse": {"qkv": False, "down": True}}
    put(out, "accuracy", {"accuracy": {"one": bad}})
    same = {"fused": True, "differs_at": None}
    put(out, "tokens", {"tokens": {"demo 0": same, "demo 1": same | {"fused": False}}})
    said = gpu.verdicts()
    assert said["30B-A3B decode >= 3 x mlx-lm"] == "3.75 x (300 against 80 tok/s)"
    assert said["30B-A3B prefill >= 8 x mlx-lm"] == "9.00 x (9 against 1 tok/s)"
    assert said["block T=2: faster than stock"] == "28.0 µs over, stock 88.0"
    assert said["NMSE no worse than stock's"] == "down"
    assert said["tokens identical"] == "demo 1"  # the kernels had not run


def test_a_phase_runs_and_a_long_one_is_cut(out: Path) -> None:
    """In processes of their own, tiny."""
    assert gpu.run(gpu.Phase("crossover", 100), 100, tiny=True) == "done"
    assert "matrix, 16 rows" in gpu.record("crossover")["crossover"]
    assert gpu.run(gpu.Phase("accuracy", 0.2), 100, tiny=True).startswith("cut after 0 s")


def test_a_killed_run_of_the_memory_cases_keeps_those_done(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [{"error": 0.01}, {"failed": "exit 1: no memory"}]

    def apart(_: memory.Case, seconds: float) -> dict[str, Any]:
        if not left:
            raise KeyboardInterrupt
        return left.pop(0)

    monkeypatch.setattr(memory, "apart", apart)
    with pytest.raises(KeyboardInterrupt):
        memory.run(list(memory.ON_GPU), 100, "memory-gpu")
    kept = json.loads((out / "memory-gpu.json").read_text())["results"]
    assert kept == [{"error": 0.01}, {"failed": "exit 1: no memory"}]


def test_no_memory_case_is_begun_when_the_time_is_over() -> None:
    assert memory.run(list(memory.ON_GPU), 0, "memory-gpu") == {}

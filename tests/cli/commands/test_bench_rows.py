"""bench --rows: what it measures, what it makes of that, and what doctor remembers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qwen3_mlx.bench import rows_reading
from qwen3_mlx.bench.rows import ROWS, Steps
from qwen3_mlx.bench.rows_reading import RowsReading, expected
from qwen3_mlx.cli.app import app
from qwen3_mlx.cli.commands import doctor

FLAT = RowsReading(
    "8b", "fused", 512, dict.fromkeys(ROWS, 4.0), {rows: 4.0 + rows - 1 for rows in ROWS}
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QWEN3_MLX_HOME", str(tmp_path))
    return tmp_path


def test_it_prints_every_size_and_doctor_remembers(home: Path, tmp_path: Path) -> None:
    record = tmp_path / "rows.json"
    words = ["bench", "--shape", "tiny-moe", "--rows", "--context", "8", "--tokens", "1"]
    run = CliRunner().invoke(app, [*words, "--rounds", "2", "--record", str(record)])
    assert run.exit_code == 0, run.output
    lines = [line for line in run.output.splitlines() if line.startswith("| ")]
    assert [line.split()[1] for line in lines[1 : len(ROWS) + 1]] == [str(rows) for rows in ROWS]
    assert lines[len(ROWS) + 1].startswith("| drafts that are right | 50% |")
    held = json.loads(record.read_text())["results"]
    assert set(held["reading"]["sequences"]) == {str(rows) for rows in ROWS}
    assert len(held["samples"]["one 4"]["samples"]) == 2
    remembered = dict(doctor.readings_of_rows())
    assert (
        remembered["now"] == "plain operations: MLX computes on the CPU here, with plain operations"
    )
    assert remembered["tiny-moe 4bit (random weights)"].startswith("plain; ")


def test_it_measures_nobody_else() -> None:
    run = CliRunner().invoke(app, ["bench", "--rows", "--against", "mlx-lm"])
    assert run.exit_code == 1 and "--rows doesn't go with --against" in run.output


def test_gains_are_those_of_the_sums() -> None:
    assert [FLAT.batching(rows) for rows in (1, 4, 16)] == [1, 4, 16]
    assert expected(0.5, 2) == 1.75 and expected(1.0, 3) == 4
    assert FLAT.speculation(1.0) == (16 / (19 / 4), 15)
    gain, drafts = FLAT.speculation(0.5, cost=0.2)
    assert drafts == 1 and gain == pytest.approx(1.5 / (5 / 4 + 0.2))


def test_a_damaged_reading_and_another_machine_s_are_nobody_s(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rows_reading.save(replace(FLAT, machine="elsewhere")) is None
    assert rows_reading.load_all() == []
    monkeypatch.setattr(rows_reading.verdict, "machine", lambda: "elsewhere")
    assert rows_reading.load_all() == [replace(FLAT, machine="elsewhere")]
    for text in (b"[]", b"{", b'{"sequences": {"1": 0}, "one": {"1": 0}}', b"[" * 9000):
        (home / "rows" / "8b.json").write_bytes(text)
        assert rows_reading.load_all() == []


def test_kernels_are_compiled_before_anything_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """And who waits for that is told."""
    told = ["bench", "--shape", "tiny", "--rows", "--context", "8", "--tokens", "1"]
    order: list[str] = []

    def compile_ahead(_: Steps) -> float:
        order.append("compiled")
        return 16.4

    monkeypatch.setattr(Steps, "compile_ahead", compile_ahead)
    monkeypatch.setattr(rows_reading, "seconds", lambda *_: order.append("timed") or 0.001)
    run = CliRunner().invoke(app, [*told, "--rounds", "2"])
    assert run.exit_code == 0, run.output
    assert order[0] == "compiled" and order.count("compiled") == 1 and "timed" in order
    assert "took 16 s to compile" in run.output

"""bench and doctor: what they print, without a model's download."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401  (before mlx)

import mlx.core as mx
import pytest
from typer.testing import CliRunner

from qwen3_mlx.bench import random_network
from qwen3_mlx.bench.rates import Rates
from qwen3_mlx.cli import record_file
from qwen3_mlx.cli.app import app
from qwen3_mlx.cli.commands import bench, doctor
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.errors import OptionError
from qwen3_mlx.fit import machine
from qwen3_mlx.metal import dispatch
from tests.oracle import assert_close


def test_doctor_says_what_runs_and_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.command()
    said = capsys.readouterr().out
    assert "\n  wired memory " in said
    assert "\n  prefill, packed  weights are unpacked" in said
    assert "\n  decode, experts  plain operations: MLX computes on the CPU" in said
    for name in dispatch.KERNELS:
        assert f"\n  {name} " in said


def test_doctor_says_how_a_prompt_meets_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dict(doctor.paths())["prefill, experts"].startswith("as above: MLX computes on the CPU")
    monkeypatch.setattr(dispatch, "unavailable_reason", lambda *_names, **_given: None)
    assert dict(doctor.paths())["prefill, experts"] == "4 and 8 bits: packed, on matrix units"
    monkeypatch.setenv("QWEN3_MLX_PREFILL", "each")
    assert dict(doctor.paths())["prefill, experts"] == "as above: QWEN3_MLX_PREFILL says so"


def test_bench_measures_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run(bench.from_checkpoint("demo"), None, (8, 4, 2)) == 0
    *_, head, _, row = capsys.readouterr().out.splitlines()
    assert head == "| | prefill tok/s | decode tok/s | of roofline |"
    assert row.startswith("| qwen3-mlx | ") and row.endswith("% |")


@pytest.mark.parametrize("shape", ["tiny", "tiny-moe"])
def test_bench_needs_no_download(shape: str, tmp_path: Path) -> None:
    """The command itself, against mlx-lm with the same weights, and its record."""
    pytest.importorskip("mlx_lm", reason="the baseline is not installed")
    record = tmp_path / "bench.json"
    words = ["bench", "--shape", shape, "--against", "mlx-lm", "--context", "16", "--tokens", "3"]
    run = CliRunner().invoke(app, [*words, "--rounds", "2", "--record", str(record)])
    assert run.exit_code == 0, run.output
    sides = [line.split(" |")[0] for line in run.output.splitlines() if line.startswith("| ")]
    assert sides[1:] == ["| qwen3-mlx", "| mlx-lm", "| ratio"]
    assert f"{shape} 4bit (random weights): 16 tokens of prompt, 3 decoded" in run.output
    held = json.loads(record.read_text())
    assert held["environment"]["versions"]["mlx"]
    assert {"device", "commit", "command", "variables"} <= set(held["environment"])
    assert len(held["results"]["rows"]["mlx-lm"]["decode"]["samples"]) == 2
    assert held["results"]["bandwidth"] > 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("thesis.txt", "got a file that is no record"),
        ("list.json", "got a file that is no record"),
        ("dangling", "got a file that is no record"),
        (".", "got a directory"),
        ("..", "got a directory"),
        ("/", "got a directory"),
        ("", "got a directory"),
        ("missing/bench.json", "got missing, which is no directory"),
        ("thesis.txt/bench.json", "got thesis.txt, which is no directory"),
    ],
)
def test_a_record_replaces_nothing_but_a_record(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis.txt").write_text("thesis")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "dangling").symlink_to("nowhere")
    before = sorted(tmp_path.iterdir())
    run = CliRunner().invoke(app, ["bench", "demo", "--record", name])
    assert run.exit_code == 1
    assert said in run.stderr and "hint: name another file" in run.stderr
    assert run.stdout == ""  # before anything is measured
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "thesis.txt").read_text() == "thesis"


def test_a_record_is_replaced_by_the_next(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    for results in ({"context": 1}, {"context": 2}):
        record_file.write(file, results)
    assert json.loads(file.read_text())["results"] == {"context": 2}


def test_both_sides_hold_one_network() -> None:
    """The twin gives our logits, so both are timed at the same work."""
    pytest.importorskip("mlx_lm", reason="the baseline is not installed")
    subject = bench.from_shape("tiny-moe", "4bit", None, 32)
    tokens = mx.array([[1, 2, 3, 4, 5, 6, 7, 8]])
    # 1e-9: two implementations of a network in float32
    assert_close(subject.network(tokens), subject.mlx_lm()(tokens), bound=1e-9)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--shape", "480b-a35b"], "GB needed, expected at most 10.0 GB, made up"),
        (["--shape", "9b"], "--shape: got 9b, expected 0.6b, "),
        (["--shape", "tiny", "--recipe", "2bit"], "--recipe: got 2bit, expected 4bit, 8bit, bf16"),
    ],
)
def test_bench_refuses(words: list[str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "this_machine", lambda: machine.Machine(10**10, "made up"))
    run = CliRunner().invoke(app, ["bench", *words])
    assert run.exit_code == 1
    assert isinstance(run.exception, OptionError) or expected in run.output
    if isinstance(run.exception, OptionError):
        assert expected in str(run.exception)


@pytest.mark.parametrize("shape", ["0.6b", "30b-a3b"])
def test_a_roofline_counts_what_one_token_reads(shape: str) -> None:
    """Two layers of them, against the sum by hand; half the experts idle count for nothing."""
    values = random_network.config_values(shape, "4bit", 2)
    values["vocab_size"] = 1024
    if "num_experts" in values:
        values |= {"num_experts": 4, "num_experts_per_tok": 2}
    config = Qwen3Config.from_dict(values)
    got = random_network.bytes_per_token(random_network.network(config), config, 100)
    wide, heads, kv = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
    attention = (2 * heads + 2 * kv) * 128 * wide
    experts = config.moe_intermediate_size * config.num_experts_per_tok
    ffn = 3 * wide * (experts or config.intermediate_size)
    head = 1024 * wide
    weights = (2 * (attention + ffn) + head) * (4 + 2 * 32 / 64) / 8
    routers = 2 * 4 * wide * (8 + 2 * 32 / 64) / 8 if config.num_experts else 0
    norms = 4 * (wide * 5 + 2 * 2 * 128)
    assert got == weights + routers + norms + 100 * 2 * 2 * kv * 128 * 4


def test_a_noisy_column_is_marked() -> None:
    samples = {"a": [Rates(100.0, 10.0), Rates(100.5, 20.0)], "b": [Rates(1.0, 1.0)]}
    lines = list(bench.table(bench.rows(samples), bench.Roofline(2, 60.0)))
    assert lines[2] == "| a | 100.2 | 15.0 (± 47 %) | 50% |"
    assert lines[3] == "| b | 1.0 | 1.0 | 3% |"
    assert lines[4] == "| ratio | 100.25 × | 15.00 × | |"


@pytest.mark.parametrize("rows", [[], ["--rows"]])
def test_a_record_that_can_not_be_written_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[str]
) -> None:
    for name in ("run", "run_rows", "from_checkpoint"):
        monkeypatch.setattr(bench, name, lambda *_: pytest.fail("it began"))
    there = tmp_path / "nowhere" / "x.json"
    done = CliRunner().invoke(app, ["bench", *rows, "--record", str(there)])
    assert done.exit_code == 1 and done.stderr.startswith(f"error: --record {there}: got")
    assert "which is no directory" in done.stderr and "hint: " in done.stderr


def test_a_record_that_fails_at_the_end_is_named_as_the_user_named_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", f"{tmp_path}/.x.json.part")

    monkeypatch.setattr(record_file, "write_atomically", full)
    with pytest.raises(OptionError) as error:
        record_file.write(tmp_path / "x.json", {})
    assert f"--record {tmp_path / 'x.json'}: got No space left" in str(error.value)
    assert ".part" not in str(error.value) and error.value.hint

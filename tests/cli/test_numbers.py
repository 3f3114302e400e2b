"""Infinite, huge and negative numbers, and no numbers: errors that say what would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from qwen3_mlx.cli.app import app
from qwen3_mlx.cli.chat import editing
from qwen3_mlx.errors import OptionError
from qwen3_mlx.fit import machine

FLOATS = ("inf", "-inf", "nan", "1e300", "-1")
INTEGERS = ("-1", "1" + "0" * 25, "9" * 5000, "inf", "nan")


@pytest.mark.parametrize("value", [*FLOATS, "0"])
@pytest.mark.parametrize(
    "words",
    [
        "info demo --memory",
        "models --memory",
        "convert demo --dry-run --shard-size",
        "convert demo --dry-run --recipe dynamic --target",
    ],
)
def test_a_size_that_nothing_has_is_refused(
    words: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(app, [*words.split(), value])
    assert (run.exit_code, run.stdout) == (1, "")
    assert f"got {float(value)}, expected " in run.stderr


@pytest.mark.parametrize(
    "option",
    ["--temperature", "--top-p", "--min-p", "--presence-penalty", "--repetition-penalty"],
)
@pytest.mark.parametrize("value", FLOATS[:-1])
def test_a_sampling_option_has_its_range(cli: Any, option: str, value: str) -> None:
    run = cli("generate", "demo", "hi", option, value)
    assert (run.exit_code, run.stdout) == (1, "")
    assert f"got {float(value)}, expected a number" in run.stderr


@pytest.mark.parametrize("value", FLOATS)
@pytest.mark.parametrize("option", ["--drain", "--prefix-memory"])
def test_the_server_takes_only_what_it_can_wait_and_keep(option: str, value: str) -> None:
    run = CliRunner().invoke(app, ["serve", "demo", option, value])
    assert run.exit_code == 2 and option in run.stderr


@pytest.mark.parametrize("value", INTEGERS)
@pytest.mark.parametrize(
    "words",
    [
        "generate demo hi --max-tokens",
        "generate demo hi --budget",
        "generate demo hi --kv-bits",
        "generate demo hi --kv-window",
        "generate demo hi --top-k",
        "generate demo hi --seed",
        "info demo --context",
        "info demo --kv-bits",
        "convert demo --shares",
        "doctor --prove demo --kv-bits",
    ],
)
def test_a_count_out_of_range_is_refused(
    cli: Any, words: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = cli(*words.split(), value)
    text = run.stderr
    assert run.exit_code in (1, 2) and run.stdout == ""
    assert "Traceback" not in text and "--debug to see where" not in text


@pytest.mark.parametrize("value", ["0", "-1"])
def test_a_context_of_nothing_is_refused_and_not_taken_for_the_default(value: str) -> None:
    run = CliRunner().invoke(app, ["generate", "demo", "hi", "--context", value])
    assert (run.exit_code, run.stdout) == (1, "")
    assert f"got {value}" in run.stderr


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e300", "1e308", "-1", "0", "much"])
def test_the_limit_of_memory_is_a_number_of_gb(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(machine.LIMIT, value)
    for words in (["info", "demo"], ["doctor"]):
        run = CliRunner().invoke(app, words)
        assert run.exit_code == 1
        assert f"got {value}, expected a number of GB above 0, at most 1,000,000" in run.stderr
        assert "hint: unset QWEN3_MLX_MEMORY_LIMIT" in run.stderr


def test_the_largest_sizes_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert machine.mac(machine.MOST_GB).available_bytes > 10**14
    for words in (["info", "demo", "--memory", "1e6"], ["models", "--memory", "1e6"]):
        assert CliRunner().invoke(app, words).exit_code == 0
    words = ["convert", "demo", "--dry-run", "--shard-size", "1e6"]
    assert CliRunner().invoke(app, words).exit_code == 0


@pytest.mark.parametrize("text", ["0", "-1", "9" * 5000, "inf", "1.5"])
def test_drop_takes_a_number_of_turns(text: str) -> None:
    with pytest.raises(OptionError, match="/drop"):
        editing.drop(None, text)  # type: ignore[arg-type]  # refused before it is looked at

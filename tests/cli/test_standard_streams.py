"""Standard streams that are closed, full, or whose reader is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.tmux import MAIN, PATIENCE_S, ROOT


def shell(
    words: str, ending: str, home: Path, program: str = MAIN
) -> subprocess.CompletedProcess[bytes]:
    """Run the program in bash, with `ending` behind its arguments."""
    return subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {words} {ending}', sys.executable, program],
        capture_output=True,
        cwd=ROOT,
        env=os.environ | {"QWEN3_MLX_HOME": str(home)},
        timeout=PATIENCE_S,
        check=False,
    )


PRINTS = ("--help", "--version", "-h", "chat --help", "sessions --help", "sessions show -h", "")


@pytest.mark.parametrize("words", PRINTS)
def test_help_on_a_full_disk_is_one_line(words: str, tmp_path: Path) -> None:
    done = shell(words, "> /dev/full", tmp_path)
    assert (done.returncode, done.stderr) == (1, b"error: No space left on device\n")


@pytest.mark.parametrize("words", PRINTS)
def test_help_without_a_reader_ends_quietly(words: str, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *words.split()],
        stdout=write,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        timeout=PATIENCE_S,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("ending", [">&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("words", PRINTS)
def test_help_into_a_closed_stdout_is_no_error(words: str, ending: str, tmp_path: Path) -> None:
    done = shell(words, ending, tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("words", ["--nonsense", "generate demo", "info no-such-model"])
def test_an_error_that_stderr_has_no_room_for_keeps_its_exit_code(
    words: str, tmp_path: Path
) -> None:
    done = shell(words, "2> /dev/full", tmp_path)
    assert done.returncode in (1, 2) and done.stdout == b""


@pytest.mark.parametrize("shut", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_a_closed_stream_costs_neither_model_nor_answer(shut: str, tmp_path: Path) -> None:
    """Without it the weights would get the stream's descriptor, and MLX reads no descriptor 0."""
    words = "generate demo hi --no-think --max-tokens 2 --seed 1"
    done = shell(words, shut, tmp_path)
    assert (done.returncode, b"can't be read" in done.stderr) == (0, False), done.stderr
    assert bool(done.stdout) == (">&-" not in shut.replace("2>&-", ""))


LOAD = "import os, qwen3_mlx; [os.close(n) for n in (0, 1, 2)]; qwen3_mlx.load('demo')"


def test_python_loads_a_model_in_a_daemon_that_has_closed_all_streams(tmp_path: Path) -> None:
    assert shell("", "", tmp_path, LOAD).returncode == 0

"""Places that can't take a result, and paths that MLX can't open: said before the work."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from qwen3_mlx.cli.app import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


@pytest.mark.parametrize(
    ("parent", "got"),
    [
        ("file", "a file where a directory must be"),
        ("nowhere", "a link that leads nowhere"),
        ("loop", "a link that leads nowhere"),
        ("loop/deeper", "a link that leads nowhere"),
        ("/proc", "a place that keeps no files"),
    ],
)
def test_a_place_where_nothing_can_be_written_is_said_by_a_dry_run_too(
    dense: Path, tmp_path: Path, parent: str, got: str
) -> None:
    """Also for root, and where links lead in a circle (it was a RuntimeError)."""
    if parent == "/proc" and not Path("/proc").is_dir():
        pytest.skip("a system without /proc")
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to("not-there")
    (tmp_path / "loop").symlink_to("loop")
    said = []
    for more in ([], ["--dry-run"]):
        done = run(dense, "--out", tmp_path / parent / "out", *more)
        assert done.exit_code == 1 and f"can't be written: got {got}\nhint: name" in done.stderr
        said.append(done.stderr)
    assert said[0] == said[1]


def test_a_path_that_mlx_can_t_open(dense: Path, tmp_path: Path) -> None:
    """Bytes that are no UTF-8: the conversion ended in a UnicodeEncodeError, or "bad_cast"."""
    odd = os.fsdecode(b"odd\xff")
    done = run(dense, "--out", tmp_path / odd)
    assert done.exit_code == 1 and done.stderr.startswith("error: --out is no UTF-8: got ")
    try:
        shutil.copytree(dense, tmp_path / odd)
    except OSError:
        pytest.skip("a disk that has UTF-8 alone")
    done = run(tmp_path / odd, "--out", tmp_path / "out")
    assert done.exit_code == 1 and "a path that is no UTF-8: got " in done.stderr
    assert "hint: rename the directory" in done.stderr

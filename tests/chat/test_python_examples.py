"""docs/python.md's examples for notebooks, asyncio, threads and processes, run as they stand."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
EXAMPLES = dict(re.findall(r"```python\n# (\w+)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL))


def test_each_way_has_an_example() -> None:
    assert set(EXAMPLES) == {"notebook", "asyncio", "threads", "processes"}


def test_a_notebooks_cell_runs_in_a_running_loop(capsys: pytest.CaptureFixture[str]) -> None:
    """As IPython runs a cell: compiled to allow await, executed while a loop is running."""
    code = compile(EXAMPLES["notebook"], "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names: dict[str, object] = {"__name__": "__main__"}

    async def kernel() -> None:
        result = eval(code, names)
        if inspect.isawaitable(result):
            await result

    asyncio.run(kernel())
    assert "391" in capsys.readouterr().out


def test_asyncio_asks_twice_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    exec(EXAMPLES["asyncio"], {"__name__": "__main__"})
    first, second = capsys.readouterr().out.splitlines()
    assert "391" in first and "414" in second


def test_a_thread_interrupts_another(capsys: pytest.CaptureFixture[str]) -> None:
    exec(EXAMPLES["threads"], {"__name__": "__main__"})
    assert capsys.readouterr().out in ("['interrupted']\n", "['stop']\n")


def test_a_process_that_is_spawned(tmp_path: Path) -> None:
    file = tmp_path / "example.py"
    file.write_text(EXAMPLES["processes"], "utf-8")
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, timeout=300)
    assert "391" in done.stdout, done.stderr

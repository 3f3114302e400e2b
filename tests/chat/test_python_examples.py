"""docs/python.md's examples: forms, notebooks, asyncio, threads, processes, run as they stand."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qwen3_mlx import load

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
EXAMPLES = dict(re.findall(r"```python\n# (\w+)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL))


def test_each_way_has_an_example() -> None:
    assert set(EXAMPLES) == {"form", "notebook", "asyncio", "threads", "processes"}


def test_an_answer_in_a_form_ends_and_fits() -> None:
    for seed in range(4):
        model = load("demo")
        generate = partial(model.generate, seed=seed)
        names = {"json": json, "model": SimpleNamespace(generate=generate)}
        exec(EXAMPLES["form"], names)
        reply: Any = names["reply"]
        assert reply.finish_reason == "stop"
        found = json.loads(reply.answer)
        assert 0 <= found["born"] <= 2100 and len(found["name"]) <= 60


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

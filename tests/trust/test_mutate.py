"""Mutants: the changes, which tests are asked first, and that a survivor is told from a find."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import mutate

SOURCE = """
from dataclasses import dataclass
@dataclass(frozen=True)
class Nothing:
    pass
def within(value: int = 3, *, strict: bool = True) -> bool:
    return not strict or 0 < value + 1
"""


def test_each_mutant_changes_one_thing(tmp_path: Path) -> None:
    file = tmp_path / "one.py"
    file.write_text(SOURCE)
    found = {one.change: one for one in mutate.mutants(file)}
    assert set(found) == {
        "not strict  ->  strict",
        "not strict or 0 < value + 1  ->  not strict and 0 < value + 1",
        "0 < value + 1  ->  0 <= value + 1",
        "value + 1  ->  value - 1",
        *("0  ->  1", "1  ->  2", "3  ->  4", "True  ->  False"),
    }
    assert "0 <= value + 1" in found["0 < value + 1  ->  0 <= value + 1"].text
    assert found["0  ->  1"].line == 7 and file.read_text() == SOURCE


def test_the_tests_that_name_the_module_come_first(tmp_path: Path) -> None:
    for name, text in (("a", "sampled"), ("b", "sample"), ("c", "sample, sample")):
        (tmp_path / "tests").mkdir(exist_ok=True)
        (tmp_path / "tests" / f"test_{name}.py").write_text(text)
    order = [f"tests/test_{name}.py" for name in "cba"]
    assert mutate.nearest_first(["tests"], "sample", tmp_path) == order
    assert mutate.nearest_first(["tests/test_b.py"], "sample", tmp_path) == order[1:2]


def test_a_survivor_and_a_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    for root in (source, copy):
        (root / "tests").mkdir(parents=True)
        (root / "one.py").write_text(SOURCE)
        test = "from one import within\ndef test_one():\n    assert within(0)\n"
        (root / "tests" / "test_one.py").write_text(test)
    monkeypatch.setattr(mutate, "ROOT", source)
    found = {one.change: one for one in mutate.mutants(source / "one.py")}
    found_by_its_test = {
        change: mutate.lives(found[change], copy, ["tests"], 60) is False
        for change in ("3  ->  4", "0  ->  1")
    }
    assert found_by_its_test == {"3  ->  4": False, "0  ->  1": True}
    assert (copy / "one.py").read_text() == SOURCE


def test_a_fork_finds_what_a_body_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions that are there get the mutant's code; what only an import runs is unknown."""
    monkeypatch.setenv("PYTHONPATH", str(mutate.ROOT))
    file = tmp_path / "qwen3_mlx_one.py"
    file.write_text(SOURCE)
    test = "from qwen3_mlx_one import within\ndef test_one():\n    assert not within(-1)\n"
    (tmp_path / "test_one.py").write_text(test + "def test_bad():\n    assert not within(0)\n")
    forks = mutate.Forks(*mutate.pytest_of(tmp_path, ["test_one.py"]), tmp_path)
    assert forks.failed == ["test_one.py::test_bad"]
    found = {one.change for one in mutate.mutants(file) if forks.finds(file, one.text, 60)}
    forks.close()
    assert found == {
        *("not strict  ->  strict", "0 < value + 1  ->  0 <= value + 1", "1  ->  2"),
    }


def test_what_computes_while_it_is_collected_is_not_forked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork would wait forever for the threads that it lacks: a fresh process is asked at once."""
    monkeypatch.setenv("PYTHONPATH", str(mutate.ROOT))
    waits = "threading.Thread(target=threading.Event().wait, daemon=True).start()"
    (tmp_path / "test_one.py").write_text(f"import threading\n{waits}\ndef test_one():\n    pass\n")
    file = tmp_path / "one.py"
    file.write_text("def one():\n    return 1\n")
    forks = mutate.Forks(*mutate.pytest_of(tmp_path, ["test_one.py"]), tmp_path)
    assert forks.failed == ["test_one.py::test_one"]
    assert not forks.finds(file, "def one():\n    return 2\n", 60)
    forks.close()


def test_a_fork_finds_what_stands_beside_lines_that_only_look_different(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mutant's text is unparsed: a definition over several lines makes other code of a class."""
    monkeypatch.setenv("PYTHONPATH", str(mutate.ROOT))
    file = tmp_path / "qwen3_mlx_one.py"
    method = (
        "    def of(\n        self,\n        a: int = 1,\n        b: int | None = None,\n    ):\n"
    )
    file.write_text(f"class One:\n{method}        return a\ndef two():\n    return 2\n")
    test = "from qwen3_mlx_one import two\ndef test_two():\n    assert two() == 2\n"
    (tmp_path / "test_one.py").write_text(test)
    forks = mutate.Forks(*mutate.pytest_of(tmp_path, ["test_one.py"]), tmp_path)
    found = {one.change: forks.finds(file, one.text, 60) for one in mutate.mutants(file)}
    forks.close()
    assert found == {"1  ->  2": False, "2  ->  3": True}

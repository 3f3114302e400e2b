"""The house rules that a test can hold: imports go down, few public names, nothing long."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import qwen3_mlx

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "qwen3_mlx"
TUI = PACKAGE / "cli" / "tui"
MODULES = sorted(PACKAGE.rglob("*.py"))
AROUND = ("benchmarks", "convert", "tests", "training")
SOURCES = sorted(path for folder in AROUND for path in (ROOT / folder).rglob("*.py"))

# The package's rooms from the ground up, a tuple a floor. A room may import from lower floors and
# from itself, never from a neighbour on its own floor. docs/design.md's picture is drawn from this.
FLOORS = (
    ("errors", "events"),
    ("files", "options"),
    ("gguf",),
    ("config", "hub", "text"),
    ("device",),
    ("fit", "metal"),
    ("nn",),
    ("checkpoint", "engine"),
    ("group",),
    ("bench", "chat", "quantize", "retrieval"),
    ("model",),
    ("serve", "tools"),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
PUBLIC = FLOOR["model"]  # `from qwen3_mlx import load` brings the whole house
FACES = ("cli", "serve", "tools")

WITHOUT_MLX = (*("errors", "events", "files", "options", "config", "gguf", "hub", "text"),)
SLOW = (
    *("huggingface_hub", "llguidance", "mlx_lm", "platformdirs", "prompt_toolkit", "pydantic"),
    *("starlette", "textual", "tomlkit", "transformers", "uvicorn"),
)


class Import(NamedTuple):
    """One imported module; `outer` if it happens as soon as the importing module is imported."""

    name: str
    outer: bool


def room(path: Path) -> str:
    """Return the room of a file: its folder in the package, or its own name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


@cache
def imports(path: Path) -> tuple[Import, ...]:
    """Return what a file imports, except for type checkers."""
    return tuple(walk(ast.parse(path.read_text("utf-8")), outer=True))


def walk(node: ast.AST, outer: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, outer) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute here"
            for alias in child.names:
                yield Import(f"{child.module}.{alias.name}", outer)
        inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield from walk(child, outer and not inside)


def target(name: str) -> str | None:
    """Return the room an import leads to; "" for the public names, None outside the package."""
    head, _, rest = name.partition(".")
    if head != "qwen3_mlx" or rest.startswith("__"):
        return None
    first = rest.partition(".")[0]
    if (PACKAGE / first).is_dir() or (PACKAGE / f"{first}.py").is_file():
        return first
    return ""


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    here = room(path)
    if here == "__init__":
        return
    assert here in FLOOR, f"give {here} a place in FLOORS"
    for name, _ in imports(path):
        there = target(name)
        if there is None or there == here:
            continue
        floor = FLOOR[there] if there else PUBLIC
        assert floor < FLOOR[here], f"{path.name} ({here}) imports {name}, which is not below it"


def test_slow_libraries_are_imported_where_they_are_used() -> None:
    early = [
        f"{path.name}: {name}"
        for path in MODULES
        for name, outer in imports(path)
        if outer
        and name.partition(".")[0] in SLOW
        # widgets are subclasses, so the rooms of the full-screen chat can't wait
        and not (name.startswith("textual") and path.is_relative_to(TUI))
    ]
    assert not early


def test_the_full_screen_chat_is_imported_when_it_starts() -> None:
    early = [
        f"{path.name}: {name}"
        for path in MODULES
        for name, outer in imports(path)
        if outer and name.startswith("qwen3_mlx.cli.tui") and not path.is_relative_to(TUI)
    ]
    assert not early


def test_transformers_is_for_the_makers_of_goldens_alone() -> None:
    users = {
        path.relative_to(ROOT).parts[:2]
        for path in [*MODULES, *SOURCES]
        for name, _ in imports(path)
        if name.partition(".")[0] in ("torch", "transformers")
    }
    assert users <= {("tests", "golden")}


def test_the_package_needs_none_of_the_folders_around_it() -> None:
    assert not {i.name.partition(".")[0] for p in MODULES for i in imports(p)} & set(AROUND)


def test_text_and_options_do_without_mlx() -> None:
    """Seen from outside: after importing them MLX is not there, nor any other slow library."""
    modules = [p for p in MODULES if room(p) in WITHOUT_MLX] + [PACKAGE / "checkpoint/headers.py"]
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in modules]
    code = "\n".join(f"import {name.removesuffix('.__init__')}" for name in names)
    code += f"\nimport sys; print(*sorted({{'mlx', *{SLOW!r}}} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []


def test_help_waits_for_no_network_and_no_text() -> None:
    code = "import qwen3_mlx.cli.app, sys; print(*{'mlx', 'http.client', 'qwen3_mlx.text'}"
    code += " & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.split() == [], run.stderr


def test_the_public_names() -> None:
    names = qwen3_mlx.__all__
    assert len(names) < 15
    assert names == sorted(set(names))
    for name in names:
        assert getattr(qwen3_mlx, name).__doc__, f"{name} has no docstring"
    assert {*names, "__version__"} == set(dir(qwen3_mlx))
    with pytest.raises(AttributeError, match="no_such_name"):
        qwen3_mlx.no_such_name  # noqa: B018  (the attribute access is the test)


def test_the_public_names_of_the_rooms() -> None:
    from qwen3_mlx.checkpoint import load_network
    from qwen3_mlx.text import ChatTemplate

    assert load_network.__module__ == "qwen3_mlx.checkpoint.load"
    assert ChatTemplate.__module__ == "qwen3_mlx.text.template"


class Function(NamedTuple):
    """A function and its length in lines, docstring included."""

    name: str
    lines: int


@cache
def functions(path: Path) -> tuple[Function, ...]:
    tree = ast.parse(path.read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    return tuple(Function(n.name, (n.end_lineno or 0) - n.lineno + 1) for n in nodes)


@pytest.mark.parametrize("path", [*MODULES, *SOURCES], ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    limit = 400 if path.is_relative_to(ROOT / "tests") else 300  # cases are listed, not thought out
    assert len(path.read_text("utf-8").splitlines()) <= limit
    long = [function for function in functions(path) if function.lines > 60]
    assert not long


def test_most_functions_are_very_short() -> None:
    lengths = [function.lines for path in MODULES for function in functions(path)]
    assert statistics.median(lengths) <= 10


def test_gigabytes_and_macs_stand_once() -> None:
    from qwen3_mlx.errors import gb

    assert (gb(4.64e9), gb(49.96e6), gb(1.2344e12, 2)) == ("4.6 GB", "50.0 MB", "1,234.40 GB")
    tables = [p.name for p in MODULES if "18, 24, 32, 36, 48" in p.read_text("utf-8")]
    assert tables == ["machine.py"]

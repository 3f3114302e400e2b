"""The full screen uses Textual's public interface only."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

from qwen3_mlx.cli import tui

FOLDER = Path(tui.__file__).parent
FILES = sorted(FOLDER.glob("*.py"))
PRIVATE = re.compile(r"_[a-z]\w*")


def own(tree: ast.AST) -> set[str]:
    """Private names that a file defines: functions, methods, and attributes of `self`."""
    names = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_private_name_of_textual_is_read_or_imported(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    of_room = own(tree) | own(ast.parse((FOLDER / "growing_text.py").read_text("utf-8")))
    foreign = [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and PRIVATE.fullmatch(node.attr)
        and node.attr not in of_room
        and not (isinstance(node.value, ast.Name) and node.value.id == "os")  # os._exit
    ]
    modules = [
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and "._" in (node.module or "")
    ]
    assert (foreign, modules) == ([], [])


def private_names(kind: type) -> set[str]:
    """Private names a class defines itself, its attributes of `self` included."""
    names = {name for name in vars(kind) if PRIVATE.fullmatch(name)}
    try:
        return names | set(
            re.findall(r"\bself\.(_[a-z]\w*)\s*(?::[^=\n]+)?=[^=]", inspect.getsource(kind))
        )
    except (OSError, TypeError):
        return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_private_name_of_textual_is_overridden(path: Path) -> None:
    module = importlib.import_module(
        f"qwen3_mlx.cli.tui.{path.stem}" if path.stem != "__init__" else "qwen3_mlx.cli.tui"
    )
    made_by_textual = {"_merged_bindings", "_reactives", "_computes", "_inherit_css"}
    for kind in vars(module).values():
        if not inspect.isclass(kind) or kind.__module__ != module.__name__:
            continue
        theirs = {
            n
            for base in kind.__mro__
            if base.__module__.startswith("textual")
            for n in private_names(base)
        }
        ours = {
            n
            for base in kind.__mro__
            if base.__module__.startswith("qwen3_mlx")
            for n in private_names(base)
        }
        sourced = {n for n in ours if n in inspect.getsource(module)}
        assert not (sourced & theirs) - made_by_textual, kind


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_styles_name_their_own_widget(path: Path) -> None:
    """A rule for a name that no class has does nothing, and nobody says so."""
    source = path.read_text("utf-8")
    classes = {n.name for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ClassDef)}
    named = re.findall(
        r"^\s*(?:(?:DEFAULT_)?CSS = \")?([A-Z]\w+)(?:[.:,]\S*)* (?:> \w+ )?\{", source, re.MULTILINE
    )
    assert set(named) <= classes | {"Screen"}


def test_the_tests_read_no_private_name_of_an_app_or_a_screen() -> None:
    private = re.compile(r"\b(app|screen|pilot|log_view)\.(_[a-z]\w*)|\._compositor")
    sources = [
        file.read_text("utf-8")
        for file in Path(__file__).parent.glob("*.py")
        if file != Path(__file__)
    ]
    assert private.findall("\n".join(sources)) == []

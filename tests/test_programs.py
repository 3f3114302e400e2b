"""Programs that stand in strings, for processes of their own: the names they import exist."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

from tests.test_house import SOURCES

IMPORT = re.compile(r"(?:from|import) (qwen3_mlx(?:\.\w+)*)(?: import ([\w, ]+))?")


def programs(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def exists(module: str, name: str) -> bool:
    try:
        if hasattr(importlib.import_module(module), name):
            return True
        importlib.import_module(f"{module}.{name}")
    except ImportError:
        return False
    return True


def test_what_a_program_in_a_string_imports_exists() -> None:
    missing = [
        f"{path.name}: {found[0]}"
        for path in SOURCES
        for text in programs(path)
        for found in IMPORT.finditer(text)
        for name in (found[2] or "__name__").split(",")
        if not exists(found[1], name.split(" as ")[0].strip())
    ]
    assert not missing

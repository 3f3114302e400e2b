"""docs/cli.md says what ``--help`` says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from qwen3_mlx.cli.app import app

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs" / "cli.md"
MAKER = runpy.run_path(str(ROOT / "docs" / "make_cli.py"))


def test_the_pages_are_current() -> None:
    text = FILE.read_text("utf-8")
    made_with = re.search(r"with typer ([\d.]+);", text)
    assert made_with
    if made_with[1] != MAKER["typer_version"]():
        pytest.skip(f"laid out by typer {made_with[1]}; the content is checked by the other test")
    assert text == MAKER["document"](), "run: python docs/make_cli.py"


def test_every_option_and_its_help_are_in_the_pages() -> None:
    """Holds with any version of typer, whose layout may differ."""

    def words(text: str) -> str:
        return " ".join(re.sub(r"[^\w\s.,:;'()/<=-]|`", " ", text).split())

    page = words(FILE.read_text("utf-8"))
    commands: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
    commands |= {
        f"{name} {below}": command
        for name, group in list(commands.items())
        for below, command in getattr(group, "commands", {}).items()
    }
    assert set(MAKER["COMMANDS"]) == {"", *commands}
    for name, command in commands.items():
        assert command.help, f"{name} has no help"
        assert "Examples:" in command.help, f"{name} has no examples"
        for parameter in command.params:
            for option in (*parameter.opts, *parameter.secondary_opts):
                if option.startswith("-"):
                    assert option in page, f"{name} {option}"
            assert parameter.help, f"{name} {parameter.name} has no help"
            first = words(parameter.help).split()[:3]
            assert " ".join(first) in page, f"{name} {parameter.name}: {first}"

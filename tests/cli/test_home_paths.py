"""A shell leaves the ``~`` of ``--out=~/model`` as it is: every option with a path expands it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from qwen3_mlx.cli.app import app
from qwen3_mlx.files import Kind, own_folder
from tests.fakes import Answer
from tests.quantize.build import DENSE, bf16_model


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home; the current directory is another."""
    home = tmp_path / "own"
    for place in (home, tmp_path / "here"):
        place.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path / "here")
    return home


def test_a_conversion_s_place_and_recipe(cli: Any, own: Path) -> None:
    bf16_model(own / "in", DENSE)
    (own / "mine.toml").write_text("[bits]\ndefault = 8\n")
    done = cli("convert", "~/in", "--out=~/out", "--recipe=~/mine.toml", "--no-verify")
    assert done.exit_code == 0, done.stderr
    assert (own / "out/config.json").is_file() and not list(Path().iterdir())


def test_a_chat_s_files(cli: Any, own: Path) -> None:
    (own / "system.txt").write_text("Be brief.")
    cli.script([Answer("yes")])
    done = cli("chat", "8b", "--system-file=~/system.txt", stdin="hi\n")
    assert done.exit_code == 0 and cli.model.asked[0][0][0]["content"] == "Be brief."
    (own / "mcp.json").write_text("{}")
    assert "~" not in cli("chat", "8b", "--mcp=~/mcp.json", stdin="hi\n").stderr


def test_lines_of_a_file_and_a_list_of_directories(cli: Any, own: Path) -> None:
    (own / "lines").write_text("not JSON")
    done = cli("embed", "demo", "~/lines")
    assert "No such file" not in done.stderr
    bf16_model(own / "in", DENSE)
    found = json.loads(cli("models", "~/", "--json").stdout)["models"]
    assert str(own / "in") in [one["name"] for one in found]
    assert cli("models", "~/nothing").stderr.startswith(f"error: no such directory: got {own}")


def test_a_record_is_expanded_before_it_is_checked(cli: Any, own: Path) -> None:
    (own / "a").mkdir()
    assert f"--record {own}/a: got a directory" in cli("bench", "demo", "--record=~/a").stderr


def test_every_command_expands() -> None:
    """A new command with a path does it too, unless its class is another."""
    from qwen3_mlx.cli.command import Command

    group: Any = typer.main.get_command(app)
    leaves = {name: one for name, one in group.commands.items() if not hasattr(one, "commands")}
    assert {"convert", "chat", "models"} <= set(leaves)
    assert [name for name, one in leaves.items() if not isinstance(one, Command)] == []


@pytest.mark.parametrize("kind", ["config", "state", "data", "cache"])
def test_a_blank_home_of_the_program_s_own_is_none(
    kind: Kind, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script's empty variable: a folder called " " was made wherever it ran."""
    monkeypatch.setenv("QWEN3_MLX_HOME", " ")
    blank = own_folder(kind)
    monkeypatch.delenv("QWEN3_MLX_HOME")
    assert blank == own_folder(kind)

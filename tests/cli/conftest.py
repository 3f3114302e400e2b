"""A home of their own for the command line's state, and a scripted model in place of a real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from qwen3_mlx.cli.app import app
from qwen3_mlx.cli.chat import load
from tests.cli.tmux import Tmux
from tests.fakes import FakeModel, Turn


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "state"
    monkeypatch.setenv("QWEN3_MLX_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return home


class Cli:
    """Runs the command line in this process; `model` answers, `opened` says what was asked for."""

    def __init__(self) -> None:
        self.model = FakeModel([])
        self.opened: list[tuple[str, int | None]] = []

    def script(self, *turns: Turn, **kwargs: object) -> None:
        self.model = FakeModel(turns, **kwargs)

    def __call__(self, *arguments: str, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=stdin)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Cli:
    runner = Cli()

    def open_model(name: str, context: int | None, *_: object) -> FakeModel:
        runner.opened.append((name, context))
        return runner.model

    monkeypatch.setattr(load, "open_model", open_model)
    return runner


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Tmux]:
    terminal = Tmux(tmp_path)
    yield terminal
    terminal.kill()

"""The model of the last chat that is gone: one line says so, and the demo answers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.chat import journal
from qwen3_mlx.chat.journal_files import new_path
from qwen3_mlx.cli.chat import load, start
from qwen3_mlx.cli.chat.start import ChatRequest
from qwen3_mlx.cli.settings import folders
from qwen3_mlx.cli.terminal.screen import Screen
from qwen3_mlx.cli.tui.app import Chat
from qwen3_mlx.errors import CheckpointError, ContextError, HubError, Qwen3Error
from qwen3_mlx.events import Answer
from qwen3_mlx.hub import resolve
from qwen3_mlx.options import GenerationOptions
from tests.cli.tui.pilot import ChatPilot
from tests.fakes import FakeModel
from tests.gguf import files

GONE = {
    "no-such-alias": "unknown model: got 'no-such-alias'",
    "/nowhere/at/all": "no such model directory: got /nowhere/at/all",
    "PLACE/file": "a file is no model directory: got PLACE/file",
    "PLACE/short.gguf": "short.gguf",
    "PLACE/gone.gguf": "no such model directory: got PLACE/gone.gguf",
    "https://huggingface.co/Qwen/Qwen3-8B": "a page is no model",
    "PLACE/embedder": "this model turns texts into vectors and writes none",
    "PLACE/loop/x": "no such model directory",
    "~nobody-here/model": "no such model directory",
    "a" * 5000: "unknown model: got",
    "two\nlines\x1b[2J": "unknown model: got",
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with files and folders that are no models."""
    (tmp_path / "file").write_text("a model no more")
    (tmp_path / "short.gguf").write_bytes(b"GGUF\x03")
    (tmp_path / "embedder").mkdir()
    (tmp_path / "embedder" / "config.json").write_text('{"architectures": ["Qwen3Model"]}')
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize("name", GONE, ids=lambda name: name[:20])
def test_a_name_that_means_nothing(cli: Any, place: Path, state_home: Path, name: str) -> None:
    state_home.mkdir()
    said = json.dumps({"model": name.replace("PLACE", str(place))})
    (state_home / "state.json").write_text(said)
    cli.script([Answer("a")], [Answer("b")])
    result = cli("chat", stdin="hi\n")
    assert (result.exit_code, result.stdout) == (0, "a\n")
    assert cli.opened == [("demo", None)]
    assert result.stderr.count("\n") == 1 and len(result.stderr) < 500
    assert "the model of the last chat, can't be opened, so demo answers: " in result.stderr
    assert GONE[name].replace("PLACE", str(place)) in result.stderr
    assert (state_home / "state.json").read_text() == said  # a drive may come back
    assert cli("generate", "hi there").stdout == "b\n" and cli.opened[-1] == ("demo", None)
    assert "demo" in cli("config", "get", "model").stdout
    result = cli("info")
    assert result.exit_code == 0 and result.stderr.count("so demo answers") == 1


@pytest.mark.parametrize("error", [CheckpointError("damaged"), HubError("no network")])
def test_a_model_that_can_not_be_loaded(
    cli: Any, monkeypatch: pytest.MonkeyPatch, error: Qwen3Error
) -> None:
    """A shard is gone, the cache was emptied: found out only when it is opened."""
    opened = load.open_model

    def fails(name: str, *more: Any) -> Any:
        if name != "demo":
            raise error
        return opened(name, *more)

    monkeypatch.setattr(load, "open_model", fails)
    folders.remember_model("14b")
    for command in (["chat"], ["generate"]):
        cli.script([Answer("a")])
        result = cli(*command, stdin="hi\n")
        assert (result.exit_code, result.stdout) == (0, "a\n")
        assert result.stderr == (
            f"14b, the model of the last chat, can't be opened, so demo answers: {error.summary}\n"
        )
    assert folders.last_model() == "14b"
    assert cli("chat", "14b", stdin="hi\n").exit_code == 1, "asked for, so it is an error"
    monkeypatch.setenv("QWEN3_MLX_MODEL", "14b")
    assert cli("chat", stdin="hi\n").exit_code == 1
    monkeypatch.delenv("QWEN3_MLX_MODEL")
    error = ContextError("too long")
    assert cli("chat", stdin="hi\n").exit_code == 1, "an option is wrong, not the model"


def test_the_full_screen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Found out while it loads."""
    model = FakeModel([[Answer("from the demo")]], name="demo")

    def load_model(name: str, *more: Any) -> Any:
        if name != "demo":
            raise CheckpointError("a shard is gone")
        return model

    monkeypatch.setattr(load, "load_model", load_model)
    (tmp_path / "model").mkdir()
    folders.remember_model(f"{tmp_path}/model")
    started: list[Chat] = []
    monkeypatch.setattr(Chat, "run", lambda app: started.append(app))
    monkeypatch.setattr(Screen, "can_fill_terminal", True)
    start.run(ChatRequest(None, GenerationOptions(), None, None, "live", plain=False, debug=False))
    asyncio.run(answered(started[0], model))
    assert folders.last_model() == f"{tmp_path}/model"


async def answered(app: Chat, model: FakeModel) -> None:
    async with app.run_test() as pilot:
        chat = ChatPilot(app, pilot, model)
        await chat.until("so demo answers: a shard")
        await chat.type("hi")
        await chat.until("from the demo")


def test_the_conversation_s_model_is_gone(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = new_path(folders.sessions())
    kept = journal.ChatJournal(path)
    messages = [{"role": role, "content": "x"} for role in ("user", "assistant")]
    kept.keep("/nowhere/model", GenerationOptions(), messages)
    kept.close()
    opened = load.open_model

    def fails(name: str, *more: Any) -> Any:
        if name != "8b":
            resolve.parse(name)
        return opened(name, *more)

    monkeypatch.setattr(load, "open_model", fails)
    cli.script([Answer("b")])
    result = cli("chat", "--resume", stdin="more\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "error: the conversation's model: no such model directory: got /nowhere/model\n"
        f"hint: go on with another model: qwen3-mlx chat MODEL --resume {path.stem}\n"
    )
    assert cli("chat", "8b", "--resume", stdin="more\n").stdout == "b\n"
    result = cli("chat", "--resume", "nosuch", stdin="more\n")
    assert result.exit_code == 1 and "unknown model: got 'nosuch'" in result.stderr
    assert "a conversation's id is like 2026-01-31-101500-1f2e" in result.stderr
    assert "id is like" not in cli("chat", "nosuch", stdin="more\n").stderr


def test_the_name_that_is_kept_means_the_same_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder without a config.json hides no alias; a GGUF file is a path too."""
    for name in ("8b", "demo", "owner", "own"):
        (tmp_path / name).mkdir()
    (tmp_path / "own" / "config.json").write_text("{}")
    files.write(files.model(files.DENSE_CONFIG, files.always("Q8_0")), tmp_path / "m.gguf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, kept in (
        ("8b", "8b"),
        ("demo", "demo"),
        ("owner/name:Q4_K_M@main", "owner/name:Q4_K_M@main"),
        ("own", f"{tmp_path}/own"),
        ("./own/", f"{tmp_path}/own"),
        ("~/own", f"{tmp_path}/own"),
        ("m.gguf", f"{tmp_path}/m.gguf"),
    ):
        folders.remember_model(name)
        assert folders.last_model() == kept
        assert load.choose(None)[0] == kept

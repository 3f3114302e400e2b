"""What is set holds in chat and generate: flag over variable over file over what is built in."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qwen3_mlx.chat.plain import explicit
from qwen3_mlx.cli.chat import load
from qwen3_mlx.cli.chat.conversation import Conversation
from qwen3_mlx.cli.settings import folders, settings
from qwen3_mlx.cli.terminal.screen import Screen
from qwen3_mlx.events import Answer, Thinking
from qwen3_mlx.options import GenerationOptions
from tests.fakes import FakeModel


@pytest.fixture
def file(state_home: Path) -> Path:
    """Where the configuration lies; the directory is there, the file is not."""
    state_home.mkdir()
    return state_home / "config.toml"


ALL = """
model = "8b"
thinking = true
budget = 100
max_tokens = 900
context = 2048
system = "Be brief."
temperature = 0.5
top_p = 0.9
top_k = 10
min_p = 0.1
presence_penalty = 0.2
repetition_penalty = 1.1
show_thinking = "never"
plain = true
"""
SET = GenerationOptions(
    thinking=True,
    thinking_budget=100,
    max_tokens=900,
    temperature=0.5,
    top_p=0.9,
    top_k=10,
    min_p=0.1,
    presence_penalty=0.2,
    repetition_penalty=1.1,
)


@pytest.mark.parametrize("command", [["chat"], ["generate"]])
def test_everything_holds_in_chat_and_generate(cli: Any, file: Path, command: list[str]) -> None:
    file.write_text(ALL)
    cli.script([Thinking("hm"), Answer("ok")])
    result = cli(*command, stdin="hi\n")
    assert (result.stdout, result.stderr) == ("ok\n", "")  # the thought is never shown
    messages, options = cli.model.asked[0]
    assert cli.opened == [("8b", 2048)] and options == SET
    assert messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    ]


@pytest.mark.parametrize("command", ["chat", "generate"])
def test_a_flag_wins_over_a_variable_over_the_file(
    cli: Any, file: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(ALL)
    monkeypatch.setenv("QWEN3_MLX_TOP_K", "11")
    monkeypatch.setenv("QWEN3_MLX_TOP_P", "0.8")
    monkeypatch.setenv("QWEN3_MLX_MODEL", "14b")
    cli.script([Answer("ok")])
    cli(command, "4b", "--top-k", "12", "--context", "99", "--system", "S", stdin="hi\n")
    messages, options = cli.model.asked[0]
    assert cli.opened == [("4b", 99)] and messages[0]["content"] == "S"
    assert (options.top_k, options.top_p, options.min_p) == (12, 0.8, 0.1)


def test_which_model(cli: Any, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flag, variable, file, the last chat, demo."""
    assert load.choose(None) == ("demo", load.DEMO_NOTE)
    folders.remember_model("4b")
    assert load.choose(None) == ("4b", "")
    file.write_text('model = "8b"')
    assert load.choose(None) == ("8b", "")
    monkeypatch.setenv("QWEN3_MLX_MODEL", "demo")
    assert load.choose(None) == ("demo", "")  # asked for, so nothing needs saying
    assert load.choose("14b") == ("14b", "")


def test_the_full_screen_gets_the_same(
    cli: Any, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(ALL.replace("plain = true", 'theme = "light"').replace("8b", "demo"))
    monkeypatch.setattr(Screen, "can_fill_terminal", True)
    started: list[Any] = []
    monkeypatch.setattr(
        "qwen3_mlx.cli.tui.app.Chat",
        lambda start: SimpleNamespace(run=lambda: started.append(start)),
    )
    assert cli("chat", "--top-k", "12").exit_code == 0
    [start] = started
    assert (start.name, start.theme, start.show_thinking) == ("demo", "light", "never")
    model = FakeModel([])
    chat = Conversation(model, model.session(start.system, start.options))  # type: ignore[arg-type]  # a stand-in
    start.prepare(chat)
    assert chat.session.system == "Be brief."
    assert chat.session.options == SET.override({"top_k": 12})
    assert cli("chat", "--plain", "8b", stdin="").exit_code == 0 and len(started) == 1


def test_a_resumed_conversation_goes_on_as_it_was(cli: Any, file: Path) -> None:
    cli.script([Answer("a")], [Answer("b")])
    cli("chat", "4b", "--system", "S", "--top-k", "3", stdin="hi\n")
    file.write_text(ALL)
    assert cli("chat", "--resume", "--min-p", "0.3", stdin="more\n").exit_code == 0
    messages, options = cli.model.asked[1]
    assert messages[0]["content"] == "S" and cli.opened[1][0] == "fake"
    assert options == GenerationOptions(top_k=3, min_p=0.3)


def told(**options: Any) -> GenerationOptions:
    return GenerationOptions(**options)


@pytest.mark.parametrize(
    ("said", "defaults", "family", "want"),
    [
        (told(), told(thinking_budget=9), "hybrid", told(thinking_budget=9)),
        (told(thinking_budget=5), told(thinking=False), "hybrid", told(thinking_budget=5)),
        (told(thinking_budget=0), told(thinking=True), "hybrid", told(thinking_budget=0)),
        (told(thinking=True), told(thinking_budget=0), "hybrid", told(thinking=True)),
        (told(max_tokens=50), told(thinking_budget=99), "hybrid", told(max_tokens=50)),
        (told(thinking_budget=99), told(max_tokens=50), "hybrid", told(thinking_budget=99)),
        (told(), told(thinking=True, thinking_budget=9, top_k=1), "coder", told(top_k=1)),
        (told(), told(thinking=False), "thinking", told()),
        (told(), told(thinking_budget=0), "thinking", told()),
        (told(thinking=False), told(), "thinking", told(thinking=False)),  # said: an error later
    ],
)
def test_a_default_gives_way(said: Any, defaults: Any, family: Any, want: Any) -> None:
    assert settings.apply_defaults(said, explicit(defaults), family) == want


@pytest.mark.parametrize(
    ("file_says", "variables", "thinking", "budget"),
    [
        ("thinking = false", {"BUDGET": "9"}, None, 9),
        ("thinking = true", {"BUDGET": "0"}, None, 0),
        ("budget = 0", {"THINKING": "on"}, True, None),
        ("budget = 9", {"THINKING": "off"}, False, 9),
        ("budget = 9\nthinking = false", {}, False, 9),
    ],
)
def test_a_variable_pushes_a_contradiction_aside(
    file: Path,
    file_says: str,
    variables: dict[str, str],
    thinking: bool | None,
    budget: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file.write_text(file_says)
    for name, value in variables.items():
        monkeypatch.setenv(f"QWEN3_MLX_{name}", value)
    found = settings.load()
    assert (found.get("thinking"), found.get("budget")) == (thinking, budget)


def test_a_context_that_a_model_can_not_have_is_said_and_left_out(cli: Any, file: Path) -> None:
    file.write_text("context = 9999999\n")
    cli.script([Answer("ok")])
    result = cli("generate", "demo", "x")
    assert (result.exit_code, result.stdout, cli.opened) == (0, "ok\n", [("demo", None)])
    assert "9,999,999 tokens, is too long for demo" in result.stderr


def test_an_empty_system_prompt_is_none(cli: Any, file: Path) -> None:
    file.write_text(ALL)
    cli.script([Answer("ok")], [Answer("ok")])
    for command in ("chat", "generate"):
        cli(command, "8b", "--system", "", stdin="hi\n")
    assert [turn[0] for turn in cli.model.asked] == [[{"role": "user", "content": "hi"}]] * 2

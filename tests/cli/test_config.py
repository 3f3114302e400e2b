"""`config`, and that what is set holds: flag over variable over file over what is built in."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qwen3_mlx.cli import config, loading, settings, state, terminal
from qwen3_mlx.cli.conversation import Conversation
from qwen3_mlx.errors import ConfigError
from qwen3_mlx.events import Answer, Thinking
from qwen3_mlx.options import GenerationOptions
from tests.fakes import FakeModel


@pytest.fixture
def file(state_home: Path) -> Path:
    """Where the configuration lies; the directory is there, the file is not."""
    state_home.mkdir()
    return state_home / "config.toml"


def as_json(cli: Any) -> dict[str, Any]:
    found = json.loads(cli("config", "--json").stdout)
    assert set(found) == {"path", "settings", "problems"}
    return found


# ── showing and changing ─────────────────────────────────────────────────────────────────────


def test_nothing_is_set(cli: Any, file: Path) -> None:
    result = cli("config")
    assert (result.exit_code, result.stderr) == (0, "")
    head, *rows = result.stdout.splitlines()
    assert head == f"{file} (not there yet)"
    assert [row.split()[0] for row in rows] == list(settings.KEYS)
    assert all(row.endswith("built in") for row in rows)
    assert cli("config", "get", "model").stdout == "demo\n"
    assert cli("config", "get", "budget").stdout == "default\n"
    assert cli("config", "path").stdout == f"{file}\n"
    state.remember_model("4b")
    assert as_json(cli)["settings"]["model"] == {"value": "4b", "source": "the last chat"}


def test_who_said_what(cli: Any, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('model = "8b"\nbudget = 1024\nplain = true\n')
    monkeypatch.setenv("QWEN3_MLX_BUDGET", "256")
    monkeypatch.setenv("QWEN3_MLX_TOP_P", "")
    monkeypatch.setenv("QWEN3_MLX_PLAIN", "default")
    found = as_json(cli)["settings"]
    assert found["model"] == {"value": "8b", "source": "file"}
    assert found["budget"] == {"value": 256, "source": "QWEN3_MLX_BUDGET"}
    assert found["top_p"] == found["plain"] == {"value": None, "source": "built in"}


def test_set_and_unset_leave_the_rest_as_it_was(cli: Any, file: Path) -> None:
    before = "# mine\ntheme = 'dark'  # at night\n\n[later]\nx = 1 # kept\n"
    file.write_text(before)
    file.chmod(0o640)
    for key, value in [("budget", "512"), ("presence_penalty", "-1"), ("theme", "light")]:
        assert cli("config", "set", key, value).exit_code == 0
    text = file.read_text()
    assert text.startswith("# mine\n") and "# at night" in text and "x = 1 # kept" in text
    values = settings.read(file)
    assert (values["budget"], values["presence_penalty"], values["theme"]) == (512, -1.0, "light")
    assert file.stat().st_mode & 0o777 == 0o640
    for key in ("budget", "later", "never_set", "presence_penalty"):
        assert cli("config", "unset", key).exit_code == (key == "never_set")
    assert cli("config", "set", "theme", "default").exit_code == 0
    assert file.read_text().strip() == "# mine"


def test_a_file_that_is_a_link_stays_one(cli: Any, file: Path, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles" / "qwen.toml"
    file.symlink_to(real)
    assert cli("config", "set", "model", "8b").exit_code == 0
    assert file.is_symlink() and real.read_text() == 'model = "8b"\n'


def test_a_relative_directory_is_kept_as_what_it_means(
    cli: Any, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert cli("config", "set", "model", "./mine").exit_code == 0
    assert cli("config", "get", "model").stdout == f"{tmp_path / 'mine'}\n"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("budgt", "1", "unknown key: got 'budgt'"),
        ("budget", "much", "budget: got 'much', expected 0 or more tokens"),
        ("budget", "1.5", "budget: got '1.5', expected 0 or more tokens"),
        ("temperature", "-1", "temperature: got -1.0, expected a number from 0"),
        ("temperature", "nan", "temperature: got nan"),
        ("thinking", "maybe", "thinking: got 'maybe', expected true or false"),
        ("context", "0", "context: got 0, expected 1 or more"),
        ("theme", "pink", "theme: got 'pink', expected one of auto, dark, light, none"),
        ("model", "8x", "unknown model: got '8x'"),
        ("model", "", "model: got '', expected an alias"),
    ],
)
def test_what_can_not_be_set(cli: Any, file: Path, key: str, value: str, message: str) -> None:
    result = cli("config", "set", key, value)
    assert result.exit_code == 1 and message in result.stderr and result.stdout == ""
    assert not file.exists()


def test_a_contradiction_is_not_written(cli: Any, file: Path) -> None:
    assert cli("config", "set", "thinking", "yes").exit_code == 0
    result = cli("config", "set", "budget", "0")
    assert result.exit_code == 1 and "thinking is true and budget 0" in result.stderr
    assert settings.read(file) == {"thinking": True}


def test_a_variable_that_wins_is_told_of(
    cli: Any, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN3_MLX_BUDGET", "7")
    assert "QWEN3_MLX_BUDGET is set, and wins" in cli("config", "set", "budget", "9").stderr


def test_edit_makes_a_file_that_says_what_can_be_set(
    cli: Any, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDITOR", f"{sys.executable} -c 'pass'")
    assert cli("config", "edit").exit_code == 0
    text = file.read_text()
    assert settings.read(file) == {}
    file.write_text(
        "\n".join(line.removeprefix("# ") for line in text.splitlines() if " = " in line)
    )
    assert set(settings.load().values) == set(settings.KEYS)  # each example may be set
    monkeypatch.setenv("VISUAL", f"{sys.executable} -c 'raise SystemExit(3)'")
    assert "ended with 3" in cli("config", "edit").stderr
    monkeypatch.setenv("VISUAL", "no-such-editor --now")
    assert "no-such-editor: got No such file" in cli("config", "edit").stderr
    monkeypatch.setenv("VISUAL", "'")
    assert "VISUAL: got '" in cli("config", "edit").stderr
    write = "import sys; open(sys.argv[1], 'w').write('budget = true')"
    monkeypatch.setenv("VISUAL", f'{sys.executable} -c "{write}"')
    result = cli("config", "edit")
    assert result.exit_code == 1 and "budget: got True" in result.stderr
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("VISUAL")
    monkeypatch.delenv("EDITOR")
    assert "no editor" in cli("config", "edit").stderr


# ── a file in no order ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"budget = \n", "is no TOML: got Invalid value (at line 1"),
        (b"\xff\xfe", "is no TOML"),
        (b"colour = 1", "unknown key: got 'colour'"),
        (b"[budget]\nx = 1", "budget: got {'x': 1}, expected 0 or more tokens"),
        (b"thinking = 1", "thinking: got 1, expected true or false"),
        (b"thinking = true\nbudget = 0", "thinking is true and budget 0"),
        (b"show_thinking = []", "show_thinking: got []"),
    ],
)
def test_a_broken_file_is_one_clear_error(
    cli: Any, file: Path, content: bytes, message: str
) -> None:
    file.write_bytes(content)
    cli.script([Answer("x")])
    for command in (["generate", "8b", "x"], ["chat"], ["info"], ["config", "get", "budget"]):
        result = cli(*command, stdin="")
        assert result.exit_code == 1, command
        assert message in result.stderr and "hint: " in result.stderr
        assert result.stderr.count("\n") == 2
    for command in (["--help"], ["config", "path"], ["config", "--help"], ["models"], ["doctor"]):
        assert cli(*command).exit_code == 0, command
    result = cli("config")
    assert result.exit_code == 1 and message in result.stderr
    assert len(result.stdout.splitlines()) == len(settings.KEYS) + 1
    assert as_json(cli)["problems"]


def test_a_key_of_another_time_can_be_taken_out(cli: Any, file: Path) -> None:
    file.write_text("colour = 1\nbudget = 3\n")
    assert cli("config", "unset", "colour").exit_code == 0
    assert settings.load().get("budget") == 3


def test_a_file_that_can_not_be_read_or_written(cli: Any, file: Path) -> None:
    file.mkdir()
    assert "can't be read: got Is a directory" in cli("generate", "8b", "x").stderr
    file.rmdir()
    file.parent.rmdir()
    file.parent.write_text("")  # a file where the directory should be
    assert "can't be written: got" in cli("config", "set", "budget", "1").stderr


def test_a_bad_variable(cli: Any, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN3_MLX_TOP_K", "many")
    result = cli("generate", "8b", "x")
    assert result.exit_code == 1
    assert result.stderr.startswith(
        "error: QWEN3_MLX_TOP_K: got 'many', expected 0 (off) or more\n"
    )


def test_where_the_file_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QWEN3_MLX_HOME", "~no-such-user/x")
    assert settings.file() == Path("~no-such-user/x/config.toml")
    monkeypatch.delenv("QWEN3_MLX_HOME")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert settings.file() == tmp_path / "qwen3-mlx" / "config.toml"


# ── what is set holds ────────────────────────────────────────────────────────────────────────

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
    assert loading.choose(None) == ("demo", loading.DEMO_NOTE)
    state.remember_model("4b")
    assert loading.choose(None) == ("4b", "")
    file.write_text('model = "8b"')
    assert loading.choose(None) == ("8b", "")
    monkeypatch.setenv("QWEN3_MLX_MODEL", "demo")
    assert loading.choose(None) == ("demo", "")  # asked for, so nothing needs saying
    assert loading.choose("14b") == ("14b", "")


def test_the_full_screen_gets_the_same(
    cli: Any, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(ALL.replace("plain = true", 'theme = "light"').replace("8b", "demo"))
    monkeypatch.setattr(terminal, "capable", lambda screen: True)
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
    from qwen3_mlx.store import asked

    assert settings.beneath(said, asked(defaults), family) == want


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
    assert [asked[0] for asked in cli.model.asked] == [[{"role": "user", "content": "hi"}]] * 2


def test_the_guide_names_every_key() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "config.md").read_text("utf-8")
    for key in settings.KEYS.values():
        assert f"| `{key.name}` |" in guide, key.name
    assert config.template().count(" = ") == len(settings.KEYS)


def test_an_unknown_key_by_its_nearest() -> None:
    with pytest.raises(ConfigError, match="hint: did you mean max_tokens"):
        settings.known("max-token")
    assert os.environ.get("QWEN3_MLX_HOME")

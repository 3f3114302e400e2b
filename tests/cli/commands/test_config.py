"""`config`: showing, changing, and what is said of a file in no order."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.cli.commands import config
from qwen3_mlx.cli.settings import folders, settings
from qwen3_mlx.errors import ConfigError
from qwen3_mlx.events import Answer


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
    folders.remember_model("4b")
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
        ("budget", "much", "budget: got 'much', expected a number of tokens, auto"),
        ("budget", "1.5", "budget: got '1.5', expected a number of tokens, auto"),
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
        (b"[budget]\nx = 1", "budget: got 'x', expected some of cap"),
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
        "error: QWEN3_MLX_TOP_K: got 'many', expected a whole number, 0 (off) or more\n"
    )


def test_where_the_file_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QWEN3_MLX_HOME", "~no-such-user/x")
    assert settings.file() == Path("~no-such-user/x/config.toml")
    monkeypatch.delenv("QWEN3_MLX_HOME")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert settings.file() == tmp_path / "qwen3-mlx" / "config.toml"


def test_the_guide_names_every_key() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "config.md").read_text("utf-8")
    for key in settings.KEYS.values():
        assert f"| `{key.name}` |" in guide, key.name
    assert config.template().count(" = ") == len(settings.KEYS)


def test_an_unknown_key_by_its_nearest() -> None:
    with pytest.raises(ConfigError, match="hint: did you mean max_tokens"):
        settings.known("max-token")
    assert os.environ.get("QWEN3_MLX_HOME")

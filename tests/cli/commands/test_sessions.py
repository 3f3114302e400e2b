"""Chats that are kept: what a killed process leaves, resuming, and ``qwen3-mlx sessions``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.chat import journal as store
from qwen3_mlx.chat import journal_files
from qwen3_mlx.cli.chat import resume
from qwen3_mlx.cli.settings import folders
from qwen3_mlx.events import Answer, Thinking
from qwen3_mlx.options import GenerationOptions

ROOT = Path(__file__).parents[3]
TURN = [Thinking("hm"), Answer("It is **4**.")]


def kept(home: Path) -> list[store.SavedChat]:
    return [store.read(path) for path in journal_files.all_in(home / "sessions")]


def keep(home: Path, name: str, *messages: dict[str, Any]) -> Path:
    path = home / "sessions" / f"{name}.jsonl"
    journal = store.ChatJournal(path)
    journal.keep("8b", GenerationOptions(thinking_budget=5), messages)
    journal.close()
    return path


def said(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}, {"role": "assistant", "content": "a"}]


def test_a_chat_is_kept_and_resumed(cli: Any, state_home: Path) -> None:
    cli.script(TURN, TURN, TURN)
    cli("chat", "8b", "--budget", "5", "--system", "S", stdin="2+2?\n/retry\n")
    (one,) = kept(state_home)
    assert [m["role"] for m in one.messages] == ["system", "user", "assistant"]
    assert one.messages[-1]["reasoning_content"] == "hm"
    cli.script(TURN)
    result = cli("chat", "--resume", stdin="and 3+3?\n")
    assert cli.opened[-1][0] == cli.model.name  # the model of the conversation
    asked, options = cli.model.asked[0]
    assert [m["content"] for m in asked] == ["S", "2+2?", "It is **4**.", "and 3+3?"]
    assert options.thinking_budget == 5
    assert "1 turn, '2+2?'" in result.stderr and "demonstration" not in result.stderr
    (one,) = kept(state_home)
    assert one.turns == 2 and not one.damage
    assert cli.model.warmed == [3, 5]  # while the first message is typed, and the next


def test_options_given_with_resume_win(cli: Any, state_home: Path) -> None:
    path = keep(state_home, "2026-01-01-a", {"role": "system", "content": "old"}, *said("x"))
    cli.script(TURN)
    cli("chat", "--resume", path.stem, "--budget", "9", "--system", "new", stdin="y\n")
    asked, options = cli.model.asked[0]
    assert options.thinking_budget == 9
    assert [m["content"] for m in asked] == ["new", "x", "a", "y"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["--resume"], ["--resume", "last"]),
        (["--resume", "8b"], ["--resume", "last", "8b"]),
        (["--resume", "30b-a3b"], ["--resume", "last", "30b-a3b"]),
        (["8b", "--resume", "--plain"], ["8b", "--resume", "last", "--plain"]),
        (["--resume", "2026-01-31-101500-1f2e"],) * 2,
        (["--resume", "2026-01", "8b"],) * 2,
        (["--resume", "2026", "8b"],) * 2,
        (["--resume", "20260131101500"],) * 2,
        (["--resume="], ["--resume", "last"]),
        (["--resume=", "8b"], ["--resume", "last", "8b"]),
        (["--resume", "last"],) * 2,
        (["8b"], ["8b"]),
    ],
)
def test_a_bare_resume_is_the_last(given: list[str], meant: list[str]) -> None:
    assert resume.with_last(given) == meant


def test_a_folder_of_digits_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "2507").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resume.with_last(["--resume", "2507"]) == ["--resume", "last", "2507"]


def test_the_beginning_of_several_ids_names_none(cli: Any, state_home: Path) -> None:
    for name in ("2026-01-01-a", "2026-01-01-b"):
        keep(state_home, name, *said("x"))
    cli.script(TURN)
    for stdin, words in (("", ["--resume", "2026"]), ("/load 2026\n", ["8b"])):
        result = cli("chat", *words, stdin=stdin)
        assert result.exit_code == 1
        assert "got '2026', which 2 conversations begin with" in result.stderr


def test_nothing_to_resume(cli: Any) -> None:
    result = cli("chat", "--resume", stdin="")
    assert result.exit_code == 1 and "no conversation is kept yet" in result.stderr
    assert not cli.opened


def test_a_broken_file_is_read_as_far_as_it_is_good(cli: Any, state_home: Path) -> None:
    path = keep(state_home, "2026-01-01-a", *said("x"))
    path.write_bytes(path.read_bytes() + b"rubbish\n")
    before = path.read_bytes()
    cli.script(TURN)
    result = cli("chat", "--resume", stdin="y\n")
    assert "damaged at line 3" in result.stderr and "is left as it is" in result.stderr
    assert path.read_bytes() == before
    (new,) = (one for one in kept(state_home) if one.path != path)
    assert [m["content"] for m in new.messages] == ["x", "a", "y", "It is **4**."]


def damage(path: Path, kind: str) -> None:
    """Put something that is no conversation where a newer one would be."""
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_text(kind)


DAMAGED = ["", "rubbish\n", "{}", "[1]", '{"format": "qwen3-mlx chat", "version": 1}\n']


@pytest.mark.parametrize("kind", [*DAMAGED, "directory", "pipe"])
def test_a_damaged_newest_file_does_not_hide_the_older_conversations(
    cli: Any, state_home: Path, kind: str
) -> None:
    keep(state_home, "2026-01-01-a", *said("x"))
    newest = state_home / "sessions" / "2026-12-01-b.jsonl"
    damage(newest, kind)
    os.utime(newest, (2**32, 2**32))
    for command in (["sessions", "show"], ["sessions", "export", "md"]):
        result = cli(*command)
        assert (result.exit_code, "## User\n\nx\n" in result.stdout) == (0, True)
        assert f"passed over: {newest} " in result.stderr
    cli.script(TURN)
    result = cli("chat", "--resume", stdin="y\n")
    assert (result.exit_code, result.stdout) == (0, "It is **4**.\n")
    assert f"passed over: {newest} " in result.stderr and "1 turn, 'x'" in result.stderr
    assert newest.exists()


@pytest.mark.parametrize("kind", [*DAMAGED[:-1], "directory", "pipe"])
@pytest.mark.parametrize("command", ["show", "export md", "chat --resume"])
def test_a_damaged_file_that_is_named_is_an_error_that_helps(
    cli: Any, state_home: Path, kind: str, command: str
) -> None:
    keep(state_home, "2026-01-01-a", *said("x"))
    damage(state_home / "sessions" / "2026-12-01-b.jsonl", kind)
    words = command.split() if command.startswith("chat") else ["sessions", *command.split()]
    result = cli(*words, "2026-12-01-b", stdin="y\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "2026-12-01-b.jsonl" in result.stderr and ": got " in result.stderr
    assert "hint: `qwen3-mlx sessions list` shows" in result.stderr


def test_only_damaged_files_are_an_error_that_names_one(cli: Any, state_home: Path) -> None:
    (state_home / "sessions").mkdir(parents=True)
    damage(state_home / "sessions" / "2026-12-01-b.jsonl", "")
    result = cli("sessions", "show")
    assert result.exit_code == 1 and "no conversation that is kept can be read" in result.stderr
    assert "2026-12-01-b.jsonl is no kept conversation: got an empty file" in result.stderr
    assert cli("sessions", "rm", "2026-12-01-b").exit_code == 0
    damage(state_home / "sessions" / "2026-12-01-b.jsonl", "directory")
    result = cli("sessions", "rm", "2026-12-01-b")
    assert result.exit_code == 1 and "hint: remove it yourself" in result.stderr


def test_a_chat_open_elsewhere_is_copied(cli: Any, state_home: Path) -> None:
    path = keep(state_home, "2026-01-01-a", *said("x"))
    other = store.ChatJournal(path, store.read(path))
    assert other.claim()
    before = path.read_bytes()
    cli.script(TURN)
    result = cli("chat", "--resume", stdin="y\n")
    assert "open in another chat" in result.stderr
    assert path.read_bytes() == before and len(kept(state_home)) == 2


def test_what_cannot_be_kept_is_said_once(cli: Any, state_home: Path) -> None:
    state_home.mkdir()
    (state_home / "sessions").touch()  # no directory
    cli.script(TURN, TURN)
    result = cli("chat", "8b", stdin="x\ny\n")
    assert result.stdout.count("4") == 2
    assert result.stderr.count("can't be kept") == 1


def test_kill_9_loses_the_turn_in_flight_alone(state_home: Path) -> None:
    """A turn is answered; the process is killed in the middle of the second."""
    script = "import tests.fake_cli as f; from qwen3_mlx.cli import main\n"
    script += "from qwen3_mlx.cli.chat import load\n"
    script += "from qwen3_mlx.events import Answer\nfrom tests.fakes import FakeModel\n"
    script += (
        "m = FakeModel([[Answer('one')], [s for n in range(999) for s in (Answer('w '), .05)]])\n"
    )
    script += "load.open_model = lambda *_: m\nmain()"
    chat = subprocess.Popen(
        [sys.executable, "-c", script, "chat", "8b"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    with chat:
        assert chat.stdin and chat.stdout
        chat.stdin.write(b"first\nsecond\n")
        chat.stdin.flush()
        seen = b""
        while b"w w w" not in seen:
            new = os.read(chat.stdout.fileno(), 100)
            assert new, seen
            seen += new
        chat.send_signal(signal.SIGKILL)
    (one,) = kept(state_home)
    assert [m["content"] for m in one.messages] == ["first", "one"]
    assert one.can_append and not one.damage


def test_list_show_export_rm(cli: Any, state_home: Path) -> None:
    old = keep(state_home, "2026-01-01-a", *said("old \x1b[2Jone"))
    os.utime(old, (2, 2))
    new = keep(state_home, "2026-01-02-b", *said("new one"))
    (state_home / "sessions" / "2026-01-03-c.jsonl").write_text("rubbish")
    os.utime(state_home / "sessions" / "2026-01-03-c.jsonl", (1, 1))
    result = cli("sessions", "list")
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [new.stem, old.stem]
    assert "1 turn " in lines[0] and "new one" in lines[0] and "8b" in lines[0]
    assert "\x1b" not in result.stdout and "no kept conversation" in result.stderr
    assert "## User\n\nnew one" in cli("sessions", "show").stdout
    assert "old" in cli("sessions", "export", "md", "2026-01-01").stdout
    saved = json.loads(cli("sessions", "export", "json", old.stem).stdout)
    assert saved["messages"] == said("old \x1b[2Jone") and saved["format"] == "qwen3-mlx session"
    assert cli("sessions", "rm", old.stem, "2027").exit_code == 1 and old.exists()
    assert cli("sessions", "rm", old.stem).exit_code == 0 and not old.exists()
    assert cli("sessions", "export", "pdf").exit_code == 2


@pytest.mark.parametrize("blank", ["", " "])
@pytest.mark.parametrize("command", [["rm"], ["show"], ["export", "md"]])
def test_a_blank_id_names_no_conversation_not_even_the_only_one(
    cli: Any, state_home: Path, command: list[str], blank: str
) -> None:
    only = keep(state_home, "2026-01-01-a", *said("x"))
    result = cli("sessions", *command, blank)
    assert (result.exit_code, result.stdout) == (1, "") and only.exists()
    assert "which conversation?" in result.stderr and "hint:" in result.stderr


def test_a_conversation_named_twice_is_removed_once(cli: Any, state_home: Path) -> None:
    only = keep(state_home, "2026-01-01-a", *said("x"))
    result = cli("sessions", "rm", only.stem, "2026")
    assert (result.exit_code, result.stderr.count("removed")) == (0, 1) and not only.exists()


def test_where_they_are(monkeypatch: pytest.MonkeyPatch, state_home: Path) -> None:
    assert folders.sessions() == state_home / "sessions"
    monkeypatch.delenv("QWEN3_MLX_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    if sys.platform == "linux":
        assert folders.sessions() == Path("/data/qwen3-mlx/sessions")


def test_a_cleared_conversation_is_called_empty_in_the_list(cli: Any, state_home: Path) -> None:
    """`--resume` passes over it, so the list says why."""
    cli.script(TURN)
    cli("chat", "8b", stdin="x\n/clear\n")
    line = cli("sessions", "list").stdout
    assert "0 turns  fake  (empty)\n" in line
    assert "no conversation is kept yet" in cli("chat", "--resume", stdin="y\n").stderr

"""Processes in poor surroundings: one line or none, no traceback, and the demo answers.

No home, no entry among the users, a home one may not write, everything read-only, a full disk, a
history that is none, a umask that hides nothing. A limit on files' sizes stands for the full disk:
every write to one fails, whoever runs the tests.
"""

from __future__ import annotations

import os
import pty
import select
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import qwen3_mlx

ROOT = Path(__file__).parents[2]
PROGRAM = "import sys; sys.argv[0] = 'qwen3-mlx'; from qwen3_mlx.cli import main; main()"
NOBODY = "import pwd\ndef none(uid): raise KeyError(uid)\npwd.getpwuid = none\n"
PATIENCE_S = 120
Setup = Callable[[Path], tuple[dict[str, str], list[str], str]]


def without_home(home: Path) -> tuple[dict[str, str], list[str], str]:
    return {"HOME": ""}, [], NOBODY


def without_entry(home: Path) -> tuple[dict[str, str], list[str], str]:
    if os.geteuid() or not shutil.which("setpriv"):
        pytest.skip("only root can be somebody else, with setpriv")
    ids = ["--reuid", "54321", "--regid", "54321", "--clear-groups"]
    caps = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    return {"HOME": ""}, ["setpriv", *ids, *caps], ""


def home_that_is_no_folder(home: Path) -> tuple[dict[str, str], list[str], str]:
    (home / "file").write_text("")
    return {"HOME": str(home / "file")}, [], ""


def read_only(home: Path) -> tuple[dict[str, str], list[str], str]:
    """The home, the working directory and the place for temporary files."""
    home.chmod(0o500)
    dropped: list[str] = []
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("root may write everywhere, and there is no setpriv to give that up")
        dropped = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    return {"HOME": str(home), "TMPDIR": str(home)}, dropped, ""


def full_disk(home: Path) -> tuple[dict[str, str], list[str], str]:
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
    return {"HOME": str(home)}, [], limit


def prepared(setup: Setup, home: Path, *arguments: str) -> tuple[list[str], dict[str, str]]:
    changes, before, preamble = setup(home)
    hidden = ("QWEN3_MLX", "XDG_", "HF_", "HOME", "TMPDIR")
    env = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    env |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    env |= {key: value for key, value in changes.items() if value}
    return [*before, sys.executable, "-c", preamble + PROGRAM, *arguments], env


def run(
    setup: Setup, home: Path, *arguments: str, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    command, env = prepared(setup, home, *arguments)
    return subprocess.run(
        command,
        input=stdin,
        env=env,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """What MLX compiles lies in the place for temporary files by then: the limit can't meet it."""
    qwen3_mlx.load("demo").generate("hi", max_tokens=2)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir(mode=0o755)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(folder.stat().st_mode | 0o055)  # so that somebody else finds it
    return tmp_path / "home"


SETUPS = [without_home, without_entry, home_that_is_no_folder, read_only, full_disk]


@pytest.mark.parametrize("setup", SETUPS)
def test_the_demo_answers(setup: Setup, home: Path) -> None:
    done = run(setup, home, "generate", "demo", "Add 2 and 3", "--no-think")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "5" in done.stdout
    chat = run(setup, home, "chat", "--no-think", stdin="Add 2 and 3\nAdd 4 and 5\n")
    assert chat.returncode == 1, "a script learns that nothing is kept"
    assert "5" in chat.stdout and "9" in chat.stdout
    hints = [line for line in chat.stderr.splitlines() if not line.startswith("demo is a small")]
    assert len(hints) == 2, chat.stderr  # said once, with its hint, for both turns
    assert hints[0].startswith("error: the conversation can't be kept in ")
    assert hints[1].startswith("hint: it is still in memory: /save PATH writes it; --no-save")


@pytest.mark.parametrize("setup", SETUPS)
def test_the_other_commands(setup: Setup, home: Path) -> None:
    listed = run(setup, home, "sessions", "list")
    assert (listed.returncode, listed.stderr) == (0, "")
    shown = run(setup, home, "config")
    assert (shown.returncode, shown.stderr) == (0, "")
    written = run(setup, home, "config", "set", "budget", "5")
    assert written.returncode == 1 and written.stdout == ""
    first, hint = written.stderr.splitlines()
    assert first.startswith("error: ") and "config.toml can't be written: got " in first
    assert hint == (
        "hint: free some space"
        if setup is full_disk
        else "hint: check its owner, or set QWEN3_MLX_HOME to another place"
    )
    models = run(setup, home, "models")
    assert models.returncode == 0 and models.stderr == "" and "demo-moe" in models.stdout


def test_a_umask_that_hides_nothing(home: Path) -> None:
    """What was said and set is the owner's alone all the same."""

    def open_to_all(home: Path) -> tuple[dict[str, str], list[str], str]:
        return {"QWEN3_MLX_HOME": str(home / "own")}, [], "import os\nos.umask(0)\n"

    assert run(open_to_all, home, "config", "set", "budget", "50").returncode == 0
    long = "What is this? " * 20
    done = run(open_to_all, home, "chat", "demo", stdin=f"{long}\n/save {home}/saved.jsonl\n")
    assert done.returncode == 0 and (home / "saved.jsonl").exists(), done.stderr
    paths = [path for path in home.rglob("*") if path != home]
    assert {"config.toml", "state.json", "saved.jsonl"} <= {path.name for path in paths}
    assert any(path.parent.name == "sessions" for path in paths)
    for path in paths:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), (path, oct(mode))


HISTORIES: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to("history"),
    "full disk": lambda path: path.write_text(""),
}


@pytest.mark.parametrize("kind", HISTORIES)
def test_a_history_that_can_not_be_kept(kind: str, home: Path) -> None:
    """At the editing prompt of a terminal: answered, nothing said of it, and left by Ctrl-D."""
    (home / "own").mkdir()
    HISTORIES[kind](home / "own" / "history")
    setup = full_disk if kind == "full disk" else lambda home: ({}, [], "")
    command, env = prepared(setup, home, "chat", "demo", "--plain", "--no-think", "--no-save")
    if kind == "full disk":
        command.remove("--no-save")
    env |= {"QWEN3_MLX_HOME": str(home / "own"), "TERM": "xterm-256color"}
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(home)
        os.execvpe(command[0], command, env)
    shown = until(terminal, "] >")
    for asked, answer in (("Add 2 and 3", "5."), ("Add 4 and 5", "9.")):
        os.write(terminal, f"{asked}\r".encode())
        shown += (said := until(terminal, "] >", after=answer))
        assert answer in said
    if kind == "full disk":  # the conversation goes too, so Ctrl-D asks first
        os.write(terminal, b"\x04")
        shown += until(terminal, "] >", after="to leave without it: /quit or Ctrl-D again")
    os.write(terminal, b"\x04")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)
    assert "Traceback" not in shown and "Press ENTER" not in shown


def until(terminal: int, mark: str, after: str = "") -> str:
    """What comes until `mark` follows `after`."""
    shown, deadline = "", time.monotonic() + PATIENCE_S
    while mark not in shown.partition(after)[2] if after else mark not in shown:
        assert time.monotonic() < deadline, shown
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 65_536).decode("utf-8", "replace")
    return shown

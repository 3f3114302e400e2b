"""The command line as a process of its own: pipes, locales, signals, terminals."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.tmux import PATIENCE_S, ROOT


def command(script: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.fake_cli", script, *arguments]


def run(
    script: str, *arguments: str, stdin: bytes = b"", **env: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(script, *arguments),
        input=stdin,
        capture_output=True,
        cwd=ROOT,
        env=os.environ | env,
        timeout=PATIENCE_S,
        check=False,
    )


def test_closed_stdout_ends_quietly() -> None:
    shell = f"{' '.join(command('endless', 'generate', '8b', 'x'))} | head -2"
    done = subprocess.run(
        ["bash", "-c", f"{shell}; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        cwd=ROOT,
        timeout=PATIENCE_S,
    )
    assert done.stdout == b"line 0\nline 1\n"
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("arguments", [("generate", "8b", "x"), ("chat", "8b")])
def test_closed_from_the_start(arguments: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        command("short", *arguments, "-R"),
        input=b"x\n",
        stdout=write,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        timeout=PATIENCE_S,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("shut", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_were_closed(shut: str) -> None:
    for arguments in (("generate", "8b", "x"), ("chat", "8b")):
        shell = f"{' '.join(command('short', *arguments))} {shut}"
        done = subprocess.run(
            ["bash", "-c", shell], capture_output=True, cwd=ROOT, timeout=PATIENCE_S
        )
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr


def test_a_full_disk_behind_stdout() -> None:
    shell = f"{' '.join(command('short', 'generate', '8b', 'x', '-R'))} > /dev/full"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, cwd=ROOT, timeout=PATIENCE_S)
    assert (done.returncode, done.stderr) == (1, b"error: No space left on device\n")


def test_the_answer_comes_where_the_thought_can_not_be_written() -> None:
    shell = f"{' '.join(command('short', 'generate', '8b', 'x'))} 2> /dev/full"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, cwd=ROOT, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout) == (0, b"It is **4**.\n")


@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"LC_ALL": "C"},
    ],
    ids=str,
)
def test_no_locale_can_make_it_fail(env: dict[str, str]) -> None:
    done = run("unicode", "generate", "8b", "schön?", **env)
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    text = done.stdout.decode("latin-1")
    assert text.endswith("\n") and (
        "你好 🌍 é" in done.stdout.decode("utf-8", "replace") or "\\u4f60" in text
    )
    assert run("unicode", "chat", "8b", stdin="schön\n".encode(), **env).returncode == 0
    assert run("unicode", "--help", **env).returncode == 0
    assert run("unicode", "info", "nope\u4f60", **env).returncode == 1


def test_error_and_hint(tmp_path: Path) -> None:
    done = run("error", "generate", "8b", "x")
    assert done.returncode == 1 and done.stdout == b""
    assert done.stderr == b"error: the prompt is too long: got 9 tokens\nhint: shorten it\n"
    assert b"Traceback" in run("error", "generate", "8b", "x", "--debug").stderr


@pytest.mark.parametrize("moment", ["typer", "qwen3_mlx.cli.commands"])
def test_ctrl_c_while_the_program_starts_is_no_traceback(moment: str) -> None:
    """moment: the module whose import it falls into."""
    code = (
        "import os, signal, sys\n"
        "class Pressed:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {moment!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Pressed()); sys.argv = ['qwen3-mlx', 'chat', '--help']\n"
        "from qwen3_mlx.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stderr) == (130, b"")


def test_the_package_is_the_command() -> None:
    """As where a script of it isn't on the path: in a notebook, of another environment."""
    said = [
        subprocess.run([*words, "--version"], capture_output=True, text=True, timeout=PATIENCE_S)
        for words in (
            [sys.executable, "-m", "qwen3_mlx"],
            [sys.executable, "-c", "from qwen3_mlx.cli import main; main()"],
        )
    ]
    assert said[0].stdout == said[1].stdout != "" and said[0].returncode == 0
    wrong = subprocess.run(
        [sys.executable, "-m", "qwen3_mlx", "chta"], capture_output=True, text=True
    )
    assert wrong.returncode == 2 and "chta" in wrong.stderr and "Traceback" not in wrong.stderr


def test_help_brings_in_nothing_slow() -> None:
    code = (
        "import sys; sys.argv = ['qwen3-mlx', 'chat', '--help']\n"
        "from qwen3_mlx.cli import main\n"
        "try: main()\n"
        "except SystemExit as leaving: assert leaving.code == 0\n"
        "slow = {'mlx', 'numpy', 'huggingface_hub', 'jinja2', 'tokenizers', 'prompt_toolkit'}\n"
        "print(slow & {name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stderr.decode().strip() == "set()"


# ── on a terminal ────────────────────────────────────────────────────────────────────────────


class FakeTerminal:
    """A process on a pseudo-terminal."""

    def __init__(self, script: str, *arguments: str, home: Path, **env: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            with contextlib.suppress(BaseException):
                os.chdir(ROOT)
                plain = {"TERM": "xterm", "QWEN3_MLX_HOME": str(home), "COLUMNS": "", "LINES": ""}
                # a real terminal says where its cursor is; this one has none
                plain["PROMPT_TOOLKIT_NO_CPR"] = "1"
                os.execvpe(sys.executable, command(script, *arguments), os.environ | plain | env)
            os._exit(99)
        self.seen, self._new = b"", b""

    def until(self, pattern: str, seconds: float = PATIENCE_S) -> str:
        """Read until `pattern` appears behind what it was found in last; returns all up to it."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern.encode(), self._new)):
            ready, _, _ = select.select([self.fd], [], [], max(end - time.monotonic(), 0))
            assert ready, f"{pattern!r} never came after {self._new!r}"
            try:
                piece = os.read(self.fd, 65536)
            except OSError:  # Linux: the other end is closed
                piece = b""
            assert piece, f"{pattern!r} never came before the end: {self._new!r}"
            self._new += piece
            self.seen += piece
        before, self._new = self._new[: found.end()], self._new[found.end() :]
        return before.decode("utf-8", "replace")

    def prompt(self) -> None:
        """Wait for the prompt to stand and be listening."""
        self.until(r"\] >")
        while select.select([self.fd], [], [], 0.15)[0]:
            self._new += os.read(self.fd, 65536)

    def type(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def end(self, seconds: float = PATIENCE_S) -> int:
        """Wait for the process to end; returns its exit code."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            ready, _, _ = select.select([self.fd], [], [], 0.05)
            if ready:
                with contextlib.suppress(OSError):
                    self.seen += os.read(self.fd, 65536)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"still running after {self.seen!r}")

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@contextlib.contextmanager
def terminal(script: str, *arguments: str, home: Path, **env: str) -> Iterator[FakeTerminal]:
    process = FakeTerminal(script, *arguments, home=home, **env)
    try:
        yield process
    finally:
        process.close()


def test_generate_on_a_terminal_is_dim_then_plain(home: Path) -> None:
    with terminal("escapes", "generate", "8b", "x", home=home) as process:
        assert process.end() == 0
        text = process.seen.decode()
    assert text.replace("\r\n", "\n") == "\x1b[2ma[2Jb\x1b[0m\n\nc]0;ownedd31m\n"


def test_no_color_means_no_codes(home: Path) -> None:
    with terminal("escapes", "generate", "8b", "x", home=home, NO_COLOR="1") as process:
        assert process.end() == 0
        assert b"\x1b" not in process.seen and b"<think>" in process.seen


def test_ctrl_c_in_generate_is_130_with_no_traceback(home: Path) -> None:
    with terminal("long-thought", "generate", "8b", "x", home=home) as process:
        process.until("thought 3")
        process.type("\x03")
        assert process.end() == 130
        assert b"Traceback" not in process.seen and b"The answer" not in process.seen


def test_ctrl_c_in_a_chat(home: Path) -> None:
    with terminal("long-thought", "chat", "--plain", "8b", home=home) as process:
        process.until(r"fake \[thinking\] >")
        process.type("one\r")
        process.until("thought 3")
        process.type("\x03")  # answer now
        process.until("told to answer now")
        process.until("The answer")
        process.until(r"\(cut by you\)")
        process.prompt()
        process.type("two\r")
        process.until("word3")
        process.type("\x03")  # stop, and keep the turn
        process.until("stopped by you")
        process.prompt()
        process.type("half a li\x03")  # clears the line
        time.sleep(0.3)  # at once with an Enter it would be a paste
        process.type("/stats\r")
        process.until("this chat: 2 turns")
        process.type("three\r")
        process.until("Third")
        process.prompt()
        process.type("\x04")
        assert process.end() == 0
        assert b"Traceback" not in process.seen


def test_ctrl_c_while_the_prompt_is_read(home: Path) -> None:
    with terminal("prefill", "chat", "--plain", "8b", home=home) as process:
        process.prompt()
        process.type("one\r")
        process.until(r"reading the prompt: \d+ %")
        process.type("\x03")
        process.until("stopped by you")
        process.type("/quit\r")
        assert process.end() == 0


def test_ctrl_c_at_the_empty_prompt_never_ends_the_chat(home: Path) -> None:
    with terminal("short", "chat", "--plain", "8b", home=home) as process:
        process.prompt()
        process.type("\x03")
        process.prompt()
        process.type("\x03")
        process.until("to leave: /quit or Ctrl-D")
        process.prompt()
        process.type("hi\r")
        process.until("It is")
        process.prompt()
        process.type("/quit\r")
        assert process.end() == 0


def test_chat_on_a_dumb_terminal_draws_nothing(home: Path) -> None:
    with terminal("short", "chat", "8b", home=home, TERM="dumb") as process:
        process.until(r"fake \[thinking\] >")
        process.type("hi\n")
        process.until(r"It is \*\*4\*\*\.")
        process.prompt()
        process.type("\x04")
        assert process.end() == 0
        assert b"\x1b" not in process.seen


def test_history_file_is_private(home: Path) -> None:
    with terminal("short", "chat", "--plain", "8b", home=home) as process:
        process.prompt()
        process.type("a secret\r")
        process.until("It is")
        process.prompt()
        process.type("/quit\r")
        assert process.end() == 0
    assert "a secret" in (home / "history").read_text()
    assert (home / "history").stat().st_mode & 0o077 == 0

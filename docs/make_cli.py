"""Writes docs/cli.md from ``--help`` of every command: ``python docs/make_cli.py``."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

FILE = Path(__file__).with_name("cli.md")
COMMANDS = (
    *("", "chat", "generate", "serve", "info", "models", "convert", "embed", "rerank"),
    *("bench", "doctor", "launch", "follow", "sessions"),
    *("sessions list", "sessions show", "sessions export", "sessions rm", "config"),
    *("config get", "config set", "config unset", "config path", "config edit"),
)
ENVIRONMENT = {
    "COLUMNS": "88",
    "LC_ALL": "C.UTF-8",
    "NO_COLOR": "1",
    "PYTHONIOENCODING": "utf-8",
    "TERM": "dumb",
}
HEAD = """# The command line

<!-- Written by `python docs/make_cli.py` with typer {version}; a test holds it to `--help`. -->

Answers and data go to stdout, everything else to stderr; a pipe gets no ANSI codes, a terminal none
with `NO_COLOR`. Exit codes: 0 success, 1 an error you can act on (one line and a `hint:`; `--debug`
adds the traceback), 2 wrong usage, 130 Ctrl-C, 141 stdout's reader went away.

State is kept in `~/Library/Application Support/qwen3-mlx` (macOS), `$XDG_STATE_HOME/qwen3-mlx` or
`~/.local/state/qwen3-mlx`, or where `QWEN3_MLX_HOME` says: the last model and typed lines. Every
chat is kept as it grows in `sessions` there, or without `QWEN3_MLX_HOME` in the platform's
directory for data (Linux: `~/.local/share/qwen3-mlx/sessions`).
Settings lie in `config.toml`, see [config.md](config.md).
"""


def typer_version() -> str:
    """The version whose layout the pages have."""
    return version("typer")


PROGRAM = """
import sys
from qwen3_mlx.cli import main
for command in sys.argv[1:]:
    sys.argv[1:] = [*command.split(), "--help"]
    try:
        main()
    except SystemExit as end:
        assert not end.code, command
    print(end="\\f")
"""
"""``--help`` of all commands, each ended by a form feed: one start for all."""


def pages() -> str:
    """The sections of all commands."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *COMMANDS],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
        env=os.environ | ENVIRONMENT,
    )
    said = done.stdout.split("\f")[:-1]
    return "".join(page(*pair) for pair in zip(COMMANDS, said, strict=True))


def page(command: str, said: str) -> str:
    """The section of one command from what its ``--help`` says."""
    words = ["qwen3-mlx", *command.split()]
    lines = [line.rstrip() for line in said.strip().splitlines()]
    body = "\n".join(lines).replace("\n\n\n", "\n\n")
    return f"\n## {' '.join(words)}\n\n```text\n{body}\n```\n"


def chat_commands() -> str:
    """What can be typed in a chat."""
    from qwen3_mlx.cli.chat.keys import key_help
    from qwen3_mlx.cli.chat.slash_commands import COMMANDS

    usages = [(c.usage.replace("|", "\\|"), c.help) for c in COMMANDS.values()]
    rows = [f"| `/{usage}` | {help} |" for usage, help in usages]
    table = "\n".join(["| command | does |", "|---|---|", *rows])
    keys = "\n".join(key_help(is_full_screen=False))
    return f"\n## In a chat\n\n{table}\n\n```text\n{keys}\n```\n"


def document() -> str:
    """The whole file."""
    return HEAD.format(version=typer_version()) + pages() + chat_commands()


if __name__ == "__main__":
    FILE.write_text(document(), "utf-8")

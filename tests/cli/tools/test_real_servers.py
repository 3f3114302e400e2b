"""Servers that others wrote, as a person has them: in `generate`, and in chats in a terminal."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.cli import tools_given
from tests.cli.tmux import PATIENCE_S, Tmux
from tests.cli.tools_given import OPTIONS, call_text, say_in_turn
from tests.tools.install import command
from tests.tools.test_real_servers import EVERYTHING, pytestmark

__all__ = ["pytestmark"]


OFFERED = {
    "e": ["get-sum", "get-tiny-image", "trigger-long-running-operation"],
    "f": ["read_text_file", "write_file"],
}
"""Few, so that the prompt is short."""


def mcp_file(folder: Path, **servers: Sequence[str]) -> Path:
    """A file of these servers, by what starts them."""
    entries = {
        name: {"command": words[0], "args": list(words[1:]), "includeTools": OFFERED[name]}
        for name, words in servers.items()
    }
    file = folder / "mcp.json"
    file.write_text(json.dumps({"mcpServers": entries}), "utf-8")
    return file


def test_generate_calls_server_everything(
    cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cli.model = tools_given.model()
    both = call_text("get-sum", a=2, b=3) + call_text("get-tiny-image")
    prompts = say_in_turn(monkeypatch, cli.model, [both, call_text("echo"), "Five."])
    file = mcp_file(tmp_path, e=EVERYTHING or ())
    allowed = ("--allow", "e.get-sum", "--allow", "e.get-tiny-image")
    options = (*OPTIONS, "--max-tokens", "300", "--mcp", str(file), *allowed, "--json")
    result = cli("generate", "tiny", "2 + 3?", *options)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    summed, picture, refused = record["tool_calls"]
    assert summed["result"] == "[e.get-sum]\nThe sum of 2 and 3 is 5." and not summed["failed"]
    assert "[image: image/png]" in picture["result"] and not picture["failed"]
    assert refused["failed"] and "echo" not in prompts[0]
    assert (record["answer"], record["ending"], record["steps"]) == ("Five.", "answered", 3)
    assert "runs as a task only" in result.stderr


def asked(tmux: Tmux, plain: bool, question: str, about: str) -> None:
    """Wait for a question about something, in the last row of all or of a dialog."""
    end = time.monotonic() + PATIENCE_S
    while True:
        rows = tmux.text().strip().splitlines() or [""]
        if question in "\n".join(rows[-1:] if plain else rows) and about in "\n".join(rows):
            break
        assert time.monotonic() < end, "\n".join(rows)
        time.sleep(0.05)


def answer(tmux: Tmux, plain: bool, question: str, about: str, *keys: str) -> None:
    """Wait for a question about something, and answer it."""
    asked(tmux, plain, question, about)
    tmux.keys(*keys)


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
@pytest.mark.parametrize("plain", [False, True])
def test_a_chat_in_a_terminal(tmux: Tmux, tmp_path: Path, plain: bool) -> None:
    project = tmp_path.resolve() / "project"
    project.mkdir()
    (project / "a.txt").write_text("one\x1b[2J\n")
    said = [
        call_text("read_text_file", path="a.txt"),
        call_text("write_file", path="b.txt", content="two"),
        call_text("trigger-long-running-operation", duration=500, steps=5),
        "All done.",
    ]
    script = tmp_path / "said.json"
    script.write_text(json.dumps(said))
    files = (*(command("filesystem") or ()), str(project))
    file = mcp_file(tmp_path, f=files, e=EVERYTHING or ())
    options = (*OPTIONS, "--mcp", str(file), *["--plain"] * plain)
    enter = ["Enter"] * plain
    tmux.start(str(script), "chat", "demo", *options, program="tests.cli.tools_chat")
    for name in ("f", "e"):
        answer(tmux, plain, "start it?", f"the server {name}:", "y", *enter)
    tmux.until("of 2 servers")
    tmux.keys("go", "Enter")
    answer(tmux, plain, "run it?", '"a.txt"', "y", *enter)
    answer(tmux, plain, "run it?", '"b.txt"', "n", "Enter")
    asked(tmux, plain, "run it?", "500")
    tmux.until("one⟨U+001B⟩[2J")  # not before: a dialog covers the newest lines
    tmux.keys("y", *enter)
    tmux.until("(Ctrl-C ends it)" if plain else "Esc ends it", 2 if plain else 1)
    tmux.keys("C-c")
    tmux.until("The user ended this call")
    tmux.until("All done.")
    assert not (project / "b.txt").exists()
    tmux.keys("/mcp", "Enter")
    tmux.until("e runs, 3 tools")
    tmux.keys("/quit", "Enter")
    tmux.until("exit code 0")
    left = subprocess.run(["pgrep", "-f", str(project)], capture_output=True, text=True)
    assert left.stdout == ""

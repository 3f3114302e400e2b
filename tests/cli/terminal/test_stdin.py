"""More on stdin than any context has room for: an error, and not the whole memory."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_mlx.cli.terminal import stdin
from qwen3_mlx.events import Answer

TURN = [Answer("yes")]


@pytest.mark.parametrize("command", [("generate", "8b"), ("chat", "8b")])
def test_what_is_too_much_for_one_prompt_is_refused(
    cli: Any, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr(stdin, "MOST", 100)
    cli.script(TURN, TURN)
    result = cli(*command, stdin="x" * 101)
    assert (result.exit_code, result.stdout, cli.model.asked) == (1, "", [])
    assert "stdin has too much for a prompt: got more than 100 bytes" in result.stderr
    assert "hint: take a part of it" in result.stderr


@pytest.mark.parametrize("text", ["x" * 100, "x" * 99 + "\n"])
def test_the_most_is_taken(cli: Any, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(stdin, "MOST", 100)
    cli.script(TURN, TURN)
    for command in ("generate", "chat"):
        result = cli(command, "8b", stdin=text)
        assert (result.exit_code, result.stdout) == (0, "yes\n"), result.stderr


def test_many_lines_are_as_many_messages_however_much_they_have_together(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdin, "MOST", 100)
    cli.script(TURN, TURN, TURN)
    result = cli("chat", "8b", stdin=f"{'x' * 90}\n" * 3)
    assert (result.exit_code, result.stdout) == (0, "yes\n" * 3), result.stderr

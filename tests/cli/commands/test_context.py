"""``--context`` with the demo itself: what is asked for is served, no less and no more."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner, Result

from qwen3_mlx.cli.app import app
from qwen3_mlx.cli.chat import load
from qwen3_mlx.cli.terminal.screen import Screen
from qwen3_mlx.errors import OptionError


def run(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin)


def test_a_chat_counts_with_the_context_that_was_asked_for() -> None:
    result = run("chat", "demo", "--context", "1000", "--no-save", stdin="/tokens\n")
    assert result.exit_code == 0 and "of 1,000" in result.stderr + result.stdout


def test_generate_ends_where_the_context_does() -> None:
    asked = ("generate", "demo", "What is 17 * 23?", "--temperature", "0", "--json")
    result = run(*asked, "--context", "40")
    usage = json.loads(result.stdout)["usage"]
    assert usage["prompt_tokens"] + usage["thinking_tokens"] + usage["answer_tokens"] <= 40
    assert json.loads(result.stdout)["finish_reason"] == "length"
    result = run(*asked, "--context", "10")
    assert result.exit_code == 1 and "fewer than 10, the context of demo" in result.stderr


@pytest.mark.parametrize("command", [("generate", "demo", "hi"), ("chat", "demo")])
@pytest.mark.parametrize("context", ["0", "-1"])
def test_no_context_at_all_is_refused(command: tuple[str, ...], context: str) -> None:
    result = run(*command, "--context", context)
    assert result.exit_code == 1
    assert f"got {context}, expected 1 to 2**31 - 1 tokens" in result.stderr
    with pytest.raises(OptionError, match=f"got {context}"):  # serve, chat and generate ask here
        load.context_of(int(context), "demo", Screen())

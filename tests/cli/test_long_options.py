"""--kv-bits, --kv-window and --context on the bundled demo, from the command line to the cache."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner, Result

from qwen3_mlx.cli.app import app

ASKED = ("--no-think", "--temperature", "0")


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ((), "as computed"),
        (("--kv-bits", "8"), "8 bits"),
        (("--kv-bits", "4"), "4 bits"),
        (("--kv-window", "512"), "the last 512 tokens and the first 4"),
    ],
)
def test_a_chat_says_how_its_keys_and_values_are_kept(options: tuple[str, ...], kind: str) -> None:
    result = run("chat", "demo", "--plain", *ASKED, *options, stdin="What is 7 * 8?\n/stats\n")
    assert result.exit_code == 0, result.output
    assert "56" in result.stdout
    assert "keys and values: " in result.stderr and kind in result.stderr


def test_generate_takes_them_too() -> None:
    result = run("generate", "demo", "What is 7 * 8?", *ASKED, "--kv-bits", "8")
    assert (result.exit_code, result.stdout) == (0, "7 * 8 = 56.\n")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--kv-bits", "3"), "kv-bits: got 3, expected 8 or 4"),
        (("--kv-window", "9"), "kv-window: got 9, expected 64 to 2**31 - 1 tokens"),
        (("--kv-bits", "8", "--kv-window", "512"), "don't go together"),
        (("--context", "999999"), "context: got 999999 tokens, expected at most 131072"),
    ],
)
def test_what_can_t_be_honoured(options: tuple[str, ...], words: str) -> None:
    for command in (("generate", "demo", "hi"), ("chat", "demo", "--plain")):
        result = run(*command, *options, stdin="hi\n")
        assert result.exit_code == 1
        assert words in " ".join(result.stderr.split())
        assert "Traceback" not in result.output


def test_yarn_is_said_to_be_on_and_static() -> None:
    """Beyond the model's own length only: up to there nothing is stretched."""
    longer = run("chat", "demo", "--plain", "--context", "16384", *ASKED, stdin="7 + 8\n")
    assert longer.exit_code == 0
    assert "YaRN, factor 4 over 4,096" in longer.stderr and "static" in longer.stderr
    native = run("chat", "demo", "--plain", "--context", "4096", *ASKED, stdin="7 + 8\n")
    assert native.exit_code == 0 and "YaRN" not in native.stderr

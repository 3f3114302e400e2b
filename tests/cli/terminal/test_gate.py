"""Every text on its way to a terminal passes `Screen` or a widget that takes controls away."""

from __future__ import annotations

import ast
import io
import json
from pathlib import Path

import pytest

from qwen3_mlx.cli.terminal.screen import Screen, printable
from qwen3_mlx.errors import HubError, without_secrets
from tests.test_house import PACKAGE

WRITERS = {"print", "echo", "secho", "print_exc", "print_exception", "write", "writelines"}
OWN_TEXT = {
    "cli/terminal/screen.py": "the gate itself",
    "cli/app.py": "the version and the help text",
}
"""Files of the command line that may write by themselves, and why."""
STREAMS = ("sys.stdout", "sys.stderr", "screen.err", "screen.out", "_screen.err", "_screen.out")
HOSTILE = "a\x1b]0;pwned\x07b\x9b31mc\u202ed\u2066e\x7f"


def writers(path: Path) -> list[str]:
    """Calls in a file that could put a text on the terminal without `Screen`."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        if name in ("write", "writelines"):
            if owner.endswith(STREAMS):
                found.append(ast.unparse(node))
        elif name in WRITERS and (owner in ("", "typer", "click", "traceback")):
            found.append(ast.unparse(node))
    return found


def test_nothing_in_the_command_line_writes_past_the_screen() -> None:
    past = {
        str(path.relative_to(PACKAGE)): calls
        for path in sorted((PACKAGE / "cli").rglob("*.py"))
        if str(path.relative_to(PACKAGE)) not in OWN_TEXT and (calls := writers(path))
    }
    assert past == {}


@pytest.mark.parametrize(
    "code",
    [
        "print(x)",
        "typer.echo(x)",
        "traceback.print_exc()",
        "sys.stdout.write(x)",
        "self._screen.err.write(x)",
    ],
)
def test_the_walk_finds_each_way_past_it(code: str, tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text(code)
    assert len(writers(file)) == 1


def screen_on_a_terminal() -> tuple[Screen, io.StringIO, io.StringIO]:
    screen, out, err = Screen(), io.StringIO(), io.StringIO()
    screen.out, screen.err = out, err
    screen.out_is_terminal = screen.err_is_terminal = True
    return screen, out, err


def test_every_way_through_the_screen_takes_controls_away() -> None:
    screen, out, err = screen_on_a_terminal()
    screen.answer(HOSTILE)
    screen.prompt(HOSTILE)
    screen.note(HOSTILE)
    screen.error(HubError(HOSTILE, got=HOSTILE, hint=HOSTILE))
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        screen.trace(error)
    screen.line(HOSTILE)
    written = out.getvalue() + err.getvalue()
    for own in ("\x1b[2m", "\x1b[1;31m", "\x1b[0m", "\r\x1b[K"):
        written = written.replace(own, "")
    assert not set(written) & set("\x1b\x07\x9b\x7f\u202e\u2066")
    assert "pwned" in written  # what is left is shown


def test_json_on_a_terminal_is_the_same_json_without_controls() -> None:
    screen, out, _ = screen_on_a_terminal()
    text = json.dumps({"title": HOSTILE}, ensure_ascii=False)
    screen.json(text)
    assert json.loads(out.getvalue()) == {"title": HOSTILE}
    assert printable(out.getvalue()) == out.getvalue()
    screen.out_is_terminal = False
    screen.json(text)
    assert out.getvalue().endswith(text)  # byte-true where it is read by a program


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer hf_abcdefghijklmnop",
        "bearer=hf_abcdefghijklmnop",
        "https://user:hf_abcdefghijklmnop@host/x",
        "token hf_abcdefghijklmnop in the body",
        '{"authorization": "hf_abcdefghijklmnop"}',
        "authorization: Basic hf_abcdefghijklmnop",
    ],
)
def test_a_token_in_a_networks_text_is_not_printed(text: str) -> None:
    assert "abcdefgh" not in without_secrets(text)
    screen, _, err = screen_on_a_terminal()
    screen.error(ValueError(text))
    try:
        raise RuntimeError(text)
    except RuntimeError as error:
        screen.trace(error)
    assert "abcdefgh" not in err.getvalue()


def test_the_token_of_the_environment_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "an-unusual-secret")
    assert without_secrets("echo: an-unusual-secret!") == "echo: …!"
    assert without_secrets("a model's name: hf_x") == "a model's name: hf_x"

"""docs/tools.md: its file is read, its commands are taken, its programs run."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.cli.tools.chat_tools import ChatTools
from qwen3_mlx.tools.server_file import read_config
from tests.cli import tools_given
from tests.cli.tools_given import OPTIONS, say_in_turn
from tests.tools.install import HOW, command

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tools.md").read_text("utf-8")
FILES = ROOT / "tests" / "tools" / "files_server.py"


def block(kind: str) -> str:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)[0]


def test_the_file_is_one_and_the_commands_fit_it(tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    file.write_text(block("json"), "utf-8")
    files, docs = read_config(file)
    assert files.command[0] == "npx" and docs.url.endswith("/mcp")
    commands = re.findall(r"^qwen3-mlx (.*)$", PAGE, re.MULTILINE)
    assert len(commands) == 2
    for words in map(shlex.split, commands):
        assert words[words.index("--mcp") + 1] == "mcp.json"
    ChatTools(file, ["files.*", "files.read_text_file"])


def test_the_program_runs(capsys: Any) -> None:
    """The model is the bundled one: it calls the function and reports what came back."""
    given: dict[str, Any] = {"__name__": "__main__"}
    exec(block("python"), given)
    assert "3" in capsys.readouterr().out
    said = [message["role"] for message in given["agent"].session.messages]
    assert said == ["user", "assistant", "tool", "assistant"]


def coder(name: str, **given: str) -> str:
    """A call as Coder writes it."""
    inside = "".join(f"<parameter={key}>\n{text}\n</parameter>\n" for key, text in given.items())
    return f"<tool_call>\n<function={name}>\n{inside}</function>\n</tool_call>"


@pytest.mark.parametrize("server", ["ours", "server-filesystem"])
def test_coder_edits_a_repository(
    cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: str
) -> None:
    starts = (sys.executable, str(FILES)) if server == "ours" else command("filesystem")
    if starts is None:
        pytest.skip(HOW)
    project = tmp_path / "project"
    project.mkdir()
    (project / "greet.py").write_text('print("Hello, Wrold")\n')
    tools = ["read_text_file", "edit_file"]  # all are too many for the tiny model's context
    entry = {"command": starts[0], "args": [*starts[1:], str(project)], "includeTools": tools}
    file = tmp_path / "mcp.json"
    file.write_text(json.dumps({"mcpServers": {"files": entry}}))
    cli.model = tools_given.model()
    edits = '[{"oldText": "Hello, Wrold", "newText": "Hello, World"}]'
    said = [
        "I'll look at it first.\n" + coder("read_text_file", path="greet.py"),
        coder("edit_file", path="greet.py", edits=edits),
        coder("read_text_file", path="../mcp.json"),
        "Mended.",
    ]
    prompts = say_in_turn(monkeypatch, cli.model, said)
    options = [*OPTIONS, "--max-tokens", "400", "--mcp", str(file), "--allow", "files.*"]
    result = cli("generate", "tiny", "Mend greet.py.", *options)
    assert (result.exit_code, result.stdout) == (0, "Mended.\n")
    assert (project / "greet.py").read_text() == 'print("Hello, World")\n'
    assert "[files.read_text_file]" in prompts[1] and "Wrold" in prompts[1]
    example = PAGE.partition("## A worked example")[2].split("```")[1]
    assert all(line in result.stderr for line in example.split("\n"))
    assert "Access denied" in result.stderr

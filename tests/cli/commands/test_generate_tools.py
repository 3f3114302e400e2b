"""`generate --mcp FILE --allow TOOL`: what runs, what is refused, and where all of it goes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.model import Qwen3
from tests.cli import tools_given
from tests.cli.tools_given import OPTIONS, call_text, mcp_file, say_in_turn


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return tools_given.model()


def asked(cli: Any, model: Qwen3, *arguments: str) -> Any:
    cli.model = model
    return cli("generate", "tiny", "Say it.", *OPTIONS, *arguments)


def test_an_allowed_tool_runs_and_stdout_has_the_last_answer_alone(
    cli: Any, model: Qwen3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    say_in_turn(monkeypatch, model, ["Let me see. " + call_text("echo", a="b\x1b[2J"), "Done."])
    file = mcp_file(tmp_path, good="well", other="well")
    result = asked(cli, model, "--mcp", str(file), "--allow", "good.echo")
    assert (result.exit_code, result.stdout) == (0, "Done.\n")
    for text in ("▸ good.echo", 'a: "b\\u001b[2J"', "✓ done", "[good.echo]", "Let me see."):
        assert text in result.stderr
    assert "other" not in result.stderr


def test_json_has_every_call_and_what_came_of_it(
    cli: Any, model: Qwen3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = ["First. " + call_text("echo", a=1) + call_text("gone"), "Done."]
    say_in_turn(monkeypatch, model, said)
    file = mcp_file(tmp_path, good="well")
    result = asked(cli, model, "--mcp", str(file), "--allow", "good.*", "--json")
    record = json.loads(result.stdout)
    assert (record["answer"], record["ending"], record["steps"]) == ("Done.", "answered", 2)
    first, second = record["tool_calls"]
    assert (first["server"], first["arguments"], first["failed"]) == ("good", {"a": 1}, False)
    assert first["result"] == '[good.echo]\n{"a": 1}'
    assert second["failed"] and second["server"] is None
    assert record["usage"]["answer_tokens"] > len(model.tokenizer.encode("Done."))


def test_json_without_a_call_has_an_empty_list_of_them(
    cli: Any, model: Qwen3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    say_in_turn(monkeypatch, model, ["Done."])
    file = mcp_file(tmp_path, good="well")
    result = asked(cli, model, "--mcp", str(file), "--allow", "good.*", "--json")
    assert json.loads(result.stdout)["tool_calls"] == []


def test_the_servers_file_may_be_a_pipe(
    cli: Any, model: Qwen3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As the shell's <(command) gives it."""
    say_in_turn(monkeypatch, model, ["Done."])
    read, write = os.pipe()
    os.write(write, mcp_file(tmp_path, good="well").read_bytes())
    os.close(write)
    result = asked(cli, model, "--mcp", f"/dev/fd/{read}", "--allow", "good.*")
    os.close(read)
    assert (result.exit_code, result.stdout) == (0, "Done.\n"), result.stderr


def test_a_tool_that_is_not_allowed_is_not_on_offer_and_not_run(
    cli: Any, model: Qwen3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prompts = say_in_turn(monkeypatch, model, [call_text("write"), "Done."])
    two = {"b": {"command": "never-started"}}
    file = mcp_file(tmp_path, two, a="two")
    result = asked(cli, model, "--mcp", str(file), "--allow", "a.echo")
    assert result.exit_code == 0 and "no tool 'write'" in result.stderr
    assert "echo" in prompts[0] and '"write"' not in prompts[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), 'nobody is asked here; all of them: --allow "a.*" --allow "b.*"'),
        (("--allow", "echo"), "expected server.tool"),
        (("--allow", "c.echo"), "no server 'c'"),
        (("--allow", "a.ehco"), "did you mean a.echo?"),
        (("--allow", "b.*"), "it ended with exit code 3"),
        (("--allow", "a.*", "--tools", "x.json"), "one of the two"),
    ],
)
def test_what_can_not_be_meant_is_refused(
    cli: Any, model: Qwen3, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    (tmp_path / "x.json").write_text("[]")
    words = [str(tmp_path / "x.json") if one == "x.json" else one for one in options]
    file = mcp_file(tmp_path, a="well", b="dead")
    result = asked(cli, model, "--mcp", str(file), *words)
    assert result.exit_code == 1 and said in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_allow_needs_a_file(cli: Any, model: Qwen3) -> None:
    result = asked(cli, model, "--allow", "a.b")
    assert result.exit_code == 1 and "--mcp FILE" in result.stderr

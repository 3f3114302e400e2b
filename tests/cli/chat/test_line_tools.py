"""Tools in the line chat: the questions, the commands, Ctrl-C, and what a pipe may run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.cli.chat.line_input import Lines
from qwen3_mlx.cli.terminal.screen import Screen
from qwen3_mlx.cli.tools.questions import LineQuestions
from qwen3_mlx.cli.tools.shown import argument_lines, server_lines, visible
from qwen3_mlx.events import ToolCall
from qwen3_mlx.model import Qwen3
from qwen3_mlx.tools.consent import Always, Decision, No, Once
from qwen3_mlx.tools.server_file import ServerConfig
from qwen3_mlx.tools.tool import Result, Tool
from tests.cli import tools_given
from tests.cli.tools_given import OPTIONS, call_text, mcp_file, say_in_turn

CALL = ToolCall("echo", {"a": "x"}, "1")
TOOL = Tool("echo", "", {}, lambda _a, _c: Result(""), server="good", called="echo")


class Answers:
    """A person who answers in turn, and remembers what was asked."""

    def __init__(self, answers: Sequence[str | type[BaseException]]) -> None:
        self.answers, self.asked, self.drafts = list(answers), list[str](), list[str]()

    def read(self, prompt: str, draft: str = "") -> str:
        return self.ask(prompt, draft)

    def ask(self, question: str, draft: str = "") -> str:
        self.asked.append(question)
        self.drafts.append(draft)
        answer = self.answers.pop(0)
        if isinstance(answer, str):
            return answer
        raise answer

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("answers", "decision"),
    [
        (["y"], Once()),
        (["", "yes please", "Y"], Once()),
        (["a"], Always()),
        (["n"], No()),
        (["no  not now "], No("not now")),
        (["e", '{"a": 2}', "y"], Once({"a": 2})),
        (["e", "3", "{", '{"a": 2}', "a", "n"], No()),
    ],
)
def test_the_answers(answers: list[str], decision: Decision) -> None:
    shown: list[ToolCall] = []
    person = Answers(answers)
    found = LineQuestions(person, Screen()).call(CALL, TOOL, lambda call, tool: shown.append(call))
    assert found == decision and not person.answers and shown[0] == CALL
    if "e" in answers:
        assert '{"a": "x"}' in person.drafts and shown[-1].arguments == {"a": 2}


def test_nothing_in_a_call_hides_or_looks_like_something_else() -> None:
    assert visible("a\x1b[2J\u202e\u200b\xa0\U000e0041ü 你") == (
        "a⟨U+001B⟩[2J⟨U+202E⟩⟨U+200B⟩⟨U+00A0⟩⟨U+E0041⟩ü 你"
    )
    lines = argument_lines({"path": "x", "text": "one\nother: 3\n", "n\no": [1, "\x9b"]})
    assert lines == [
        'path: "x"',
        "text:",
        "│ one",
        "│ other: 3",
        "│ ",
        'n⟨U+000A⟩o: [1, "⟨U+009B⟩"]',
    ]
    config = ServerConfig("s", ("run it", "a\nb"), {"KEY": "secret"}, "/x", allowed=("echo",))
    assert server_lines(config) == [
        "it runs: 'run it' 'a⟨U+000A⟩b'",
        "in the folder: /x",
        "with the variables: KEY",
        "without asking then: echo",
    ]


def chat(cli: Any, model: Qwen3, file: Path, *options: str, stdin: str) -> Any:
    cli.model = model
    return cli("chat", "tiny", *OPTIONS, "--mcp", str(file), *options, stdin=stdin)


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return tools_given.model()


def test_a_pipe_runs_what_is_allowed_and_the_conversation_keeps_it(
    cli: Any, model: Qwen3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state_home: Path
) -> None:
    say_in_turn(monkeypatch, model, ["Hm. " + call_text("echo", a=1), "Done."])
    file = mcp_file(tmp_path, good="well", other="well")
    result = chat(cli, model, file, "--allow", "good.*", stdin="go\n/tools\n/mcp\n/retry\n")
    assert (result.exit_code, result.stdout) == (0, "Done.\nDone.\n")
    for text in ("starting good", "1 tool of 1 server: ", "good.echo  (runs unasked)", "good runs"):
        assert text in result.stderr
    assert "starting other" not in result.stderr
    (kept,) = (state_home / "sessions").glob("*.jsonl")
    messages = json.loads(kept.read_text().splitlines()[1])["add"]
    assert [one["role"] for one in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[1]["tool_calls"][0]["id"] == messages[2]["tool_call_id"]
    assert (state_home / "mcp-logs").is_dir()


def test_a_pipe_says_which_servers_it_does_not_start(
    cli: Any, model: Qwen3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    say_in_turn(monkeypatch, model, ["Hi."] * 2)
    file = mcp_file(tmp_path, good="well", other="well")
    result = chat(cli, model, file, stdin="go\n")
    said = 'not started, as nobody is asked here: good, other; to allow them: --allow "good.*" '
    assert f'{said}--allow "other.*"' in " ".join(result.stderr.split())
    assert "Hi." in result.stdout
    result = chat(cli, model, file, "--allow", "good.echo", stdin="go\n")
    assert "nobody is asked here: other; to allow them" in " ".join(result.stderr.split())


def test_a_pipe_denies_what_is_not_allowed(
    cli: Any, model: Qwen3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    say_in_turn(monkeypatch, model, [call_text("write"), "Done."])
    file = mcp_file(tmp_path, good="two")
    result = chat(cli, model, file, "--allow", "good.echo", stdin="go\n")
    assert result.stdout == "Done.\n" and "nobody is there to allow it" in result.stderr


def talk(cli: Any, model: Qwen3, file: Path, person: Answers, monkeypatch: Any) -> str:
    """A chat by lines as on a terminal, with the answers of `person`."""
    monkeypatch.setattr(Lines, "read", lambda _s, prompt, draft="": person.read(prompt, draft))
    monkeypatch.setattr(Lines, "ask", lambda _s, text, draft="": person.ask(text, draft))
    monkeypatch.setattr("qwen3_mlx.cli.chat.line_chat.is_terminal", lambda _stream: True)
    monkeypatch.setattr(Screen, "out_is_terminal", True, raising=False)
    monkeypatch.setattr("qwen3_mlx.cli.chat.line_chat.LineChat._reader", lambda self: person)
    monkeypatch.setattr(
        "qwen3_mlx.cli.terminal.screen.is_terminal", lambda stream: stream is not None
    )
    return str(chat(cli, model, file, "--plain", stdin="").output)


def test_servers_and_calls_are_asked_for_on_a_terminal(
    cli: Any, model: Qwen3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = [call_text("echo", a=1), call_text("echo", a=2), call_text("echo", a=3), "Done."]
    prompts = say_in_turn(monkeypatch, model, said)
    file = mcp_file(tmp_path, good="well", other="two")
    person = Answers(["y", "n", "go", "n not this", "a", "/mcp restart other", "n", EOFError])
    said_to_them = talk(cli, model, file, person, monkeypatch)
    assert person.answers == [] and len(prompts) == 4
    assert "not allowed to start" in said_to_them
    assert "the user said no: not this" in prompts[1]
    assert said_to_them.count("✗ declined") == 1 and "✗ failed" not in said_to_them
    assert "run it?" in person.asked[4] and "run it?" not in person.asked[5]


@pytest.mark.parametrize("key", [KeyboardInterrupt, EOFError])
def test_ctrl_c_and_ctrl_d_at_a_servers_question_are_a_no(key: type[BaseException]) -> None:
    config = ServerConfig("s", ("run",))
    assert LineQuestions(Answers(["what", key]), Screen()).server(config) is False


def test_ctrl_c_at_the_question_ends_the_turn(
    cli: Any, model: Qwen3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prompts = say_in_turn(monkeypatch, model, [call_text("echo") + call_text("echo", b=1)])
    person = Answers(["y", "go", KeyboardInterrupt, EOFError])
    text = talk(cli, model, mcp_file(tmp_path, good="well"), person, monkeypatch)
    assert len(prompts) == 1 and person.answers == []
    assert "stopped by you" in text and "Traceback" not in text


def test_a_chat_without_tools_says_how_to_get_them(cli: Any) -> None:
    cli.script([])
    for command in ("/tools", "/mcp"):
        assert "--mcp FILE" in cli("chat", "8b", stdin=f"{command}\n").stderr


def test_a_server_that_crashes_is_said_and_the_chat_goes_on(
    cli: Any, model: Qwen3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    say_in_turn(monkeypatch, model, [call_text("echo"), "Sorry."])
    file = mcp_file(tmp_path, good="crash")
    result = chat(
        cli, model, file, "--allow", "good.*", stdin="go\n/mcp\n/mcp restart good\n/mcp stop good\n"
    )
    assert result.stdout == "Sorry.\n" and "exit code 3: out of luck" in result.stderr
    assert "/mcp restart good" in result.stderr and "good runs, 1 tool" in result.stderr
    assert "stopping good" in result.stderr and "stopped: good" in result.stderr

"""Tools on the full screen: questions, keys, cards, and a chat that ends in the middle."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from textual.events import Key

from qwen3_mlx.cli.tools.chat_tools import ChatTools
from qwen3_mlx.cli.tui import consent_dialog
from qwen3_mlx.cli.tui.consent_dialog import CallDialog, ServerDialog
from qwen3_mlx.events import Answer, ToolCall
from qwen3_mlx.model import Qwen3
from qwen3_mlx.options import GenerationOptions
from qwen3_mlx.tools.client import McpClient
from qwen3_mlx.tools.tool import Cancel, Result, Tool
from tests.cli import tools_given
from tests.cli.tools_given import GREEDY, call_text, mcp_file, say_in_turn
from tests.cli.tui.pilot import ChatPilot, run_chat


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return tools_given.model()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consent_dialog, "QUIET_S", 0.0)


class OneTool(ChatTools):
    """Tools without servers: one function, whose calls are asked for."""

    def __init__(self, folder: Path, work: Any = lambda **given: f"got {given}") -> None:
        super().__init__(mcp_file(folder, good="well"))
        self.ran: list[dict[str, Any]] = []

        def run(arguments: dict[str, Any], cancel: Cancel) -> Result:
            self.ran.append(arguments)
            return Result(str(work(**arguments)))

        self._tool = Tool("echo", "Says it.", {"type": "object"}, run, "good", "echo")

    def start_all(self, say: Any = None) -> None:
        pass

    def offered(self) -> list[Tool]:
        return [self._tool]

    def known(self) -> list[Tool]:
        return [self._tool]


def a_chat(model: Qwen3, tools: ChatTools) -> Any:
    def prepare(chat: Any) -> list[str]:
        chat.tools = tools
        return []

    options = GenerationOptions(**GREEDY)
    loaded: Any = model
    return run_chat(model=loaded, tools=tools, prepare=prepare, options=options, size=(90, 30))


def dialog(chat: ChatPilot) -> bool:
    return isinstance(chat.app.screen, CallDialog | ServerDialog)


async def asked(chat: ChatPilot, *keys: str) -> None:
    """Wait for a question, and answer it."""
    await chat.until(lambda: dialog(chat) and chat.app.screen.is_mounted)
    await chat.press(*keys)


def roles(chat: ChatPilot) -> list[str]:
    found = chat.app.controller.chat
    assert found is not None
    return [message["role"] for message in found.session.messages]


@pytest.mark.parametrize(
    ("keys", "ran", "told"),
    [
        (["y"], [{"a": 1}], "got"),
        (["n", *"no!", "enter"], [], "the user said no: no!"),
        (["n", "enter"], [], "Not run: the user said no."),
        (["escape"], [], "Not run: the user said no."),
        (["e", "ctrl+a", "enter", "y"], [{"a": 1}], "got"),
        (["n", "escape", "y"], [{"a": 1}], "got"),
    ],
)
async def test_a_call_is_shown_whole_and_runs_only_if_it_may(
    monkeypatch: pytest.MonkeyPatch,
    model: Qwen3,
    tmp_path: Path,
    keys: Sequence[str],
    ran: list[dict[str, Any]],
    told: str,
) -> None:
    prompts = say_in_turn(monkeypatch, model, [call_text("echo", a=1), "Done."])
    tools = OneTool(tmp_path)
    async with a_chat(model, tools) as chat:
        await chat.type("go")
        await chat.until(lambda: dialog(chat))
        await chat.until("a: 1")
        assert tools.ran == [] and "good.echo" in chat.seen and "run it?" in chat.seen
        await asked(chat, *keys)
        await chat.until("Done.")
        await chat.idle()
        assert tools.ran == ran and told in prompts[1]
        assert roles(chat) == ["user", "assistant", "tool", "assistant"]
        await chat.type("/undo")
        await chat.until("taken back")


async def test_a_question_leaves_the_newest_lines_in_sight(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, tmp_path: Path
) -> None:
    """What the model said before its call, and the last result; also while arguments are edited."""
    said = "\n\n".join([*"abcdefghijklmnop", "You asked."])
    say_in_turn(monkeypatch, model, [said + call_text("echo", a=1), "Done."])
    async with a_chat(model, OneTool(tmp_path)) as chat:
        await chat.type("go")
        for key in ("", "e", "escape"):
            await asked(chat, *[key] * bool(key))
            log, screen = chat.app.log_view, chat.app.screen

            def above() -> bool:
                tops = [one.region.y for one in screen.children if one.display]  # noqa: B023
                return 0 < log.region.bottom == min(tops)  # noqa: B023

            await chat.until(above)
            for size in ((60, 14), (90, 30)) if key == "" else ():
                await chat.pilot.resize_terminal(*size)
                await chat.until(lambda: chat.app.size == size and above())  # noqa: B023
            assert log.max_scroll_y == log.scroll_offset.y, "the end of the answer is shown"
        await asked(chat, "y")
        await chat.until("Done.")
        await chat.until(lambda: chat.app.log_view.styles.margin.bottom == 0)


async def test_what_is_edited_runs_and_always_asks_no_more(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, tmp_path: Path
) -> None:
    prompts = say_in_turn(
        monkeypatch, model, [call_text("echo", a=n) for n in range(3)] + ["Done."]
    )
    tools = OneTool(tmp_path)
    async with a_chat(model, tools) as chat:
        await chat.type("go")
        await asked(chat, "e")
        question = chat.app.screen
        assert isinstance(question, CallDialog)
        question.writing.put('{"a": "\u202e7"}')
        await chat.press("enter")
        await chat.until("⟨U+202E⟩7")
        assert "(edited by you)" in chat.seen
        await chat.press("a")  # what was edited is no tool's rule
        await asked(chat, "y")
        await chat.until(lambda: len(prompts) == 2)
        await asked(chat, "a")
        await chat.until("Done.")
        assert tools.ran == [{"a": "\u202e7"}, {"a": 1}, {"a": 2}]


async def test_letters_of_somebody_who_types_answer_nothing(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, tmp_path: Path
) -> None:
    say_in_turn(monkeypatch, model, [call_text("echo"), "Done."])
    monkeypatch.setattr(consent_dialog, "QUIET_S", 1000.0)
    tools = OneTool(tmp_path)
    async with a_chat(model, tools) as chat:
        await chat.type("go")
        await asked(chat, *"yes", "enter", "y")
        assert dialog(chat) and tools.ran == [] and chat.app.input.text == "yesy"
        monkeypatch.setattr(consent_dialog, "QUIET_S", 0.0)
        await chat.press("y")
        await chat.until("Done.")


async def test_keys_that_come_before_the_focus_are_taken(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, tmp_path: Path
) -> None:
    prompts = say_in_turn(monkeypatch, model, [call_text("echo"), "Done."])
    tools = OneTool(tmp_path)
    async with a_chat(model, tools) as chat:
        await chat.type("go")
        await chat.until(lambda: dialog(chat) and chat.app.screen.is_mounted)
        for key in ("n", "h", "i", "enter"):  # all of them in one read of the terminal
            chat.app.screen.post_message(Key(key, key if key != "enter" else "\r"))
        await chat.until("Done.")
        assert "the user said no: hi" in prompts[1] and tools.ran == []


async def test_ctrl_c_at_a_question_ends_the_turn(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, tmp_path: Path
) -> None:
    prompts = say_in_turn(monkeypatch, model, [call_text("echo"), "Never said."])
    tools = OneTool(tmp_path)
    async with a_chat(model, tools) as chat:
        await chat.type("go")
        await asked(chat, "ctrl+c")
        await chat.until("stopped by you")
        await chat.idle()
        assert len(prompts) == 1 and tools.ran == [] and roles(chat)[-1] == "tool"


async def test_esc_ends_a_running_call_and_the_turn_goes_on(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, tmp_path: Path
) -> None:
    prompts = say_in_turn(monkeypatch, model, [call_text("echo"), "Done."])
    over = threading.Event()
    tools = OneTool(tmp_path, lambda **_: over.wait(60))
    async with a_chat(model, tools) as chat:
        await chat.type("go")
        await asked(chat, "y")
        await chat.until("running good.echo (Esc ends it)")
        await chat.press("escape")
        await chat.until("Done.")
        over.set()
        assert "The user ended this call" in prompts[1]


async def test_a_chat_that_ends_answers_its_question_with_no(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, tmp_path: Path
) -> None:
    say_in_turn(monkeypatch, model, [call_text("echo"), "Never said."])
    tools = OneTool(tmp_path)
    async with a_chat(model, tools) as chat:
        await chat.type("go")
        await chat.until(lambda: dialog(chat))
        running = chat.app.controller.turn
        assert running is not None
    assert running.running.over.wait(60) and tools.ran == []


async def test_servers_are_asked_for_and_mcp_restarts_them(tmp_path: Path) -> None:
    tools = ChatTools(mcp_file(tmp_path, good="well", bad="dead"))

    def prepare(chat: Any) -> list[str]:
        chat.tools = tools
        return []

    async with run_chat([Answer("hi")], tools=tools, prepare=prepare, size=(90, 30)) as chat:
        await chat.until("it runs:")
        await asked(chat, "n")
        await chat.until("bad:")
        await asked(chat, "y")
        await chat.until("ended with exit code 3")
        await chat.type("/mcp")
        await chat.until("good doesn't run: not allowed to start")
        await chat.type("/mcp restart good")
        await asked(chat, "y")
        await chat.until("good runs, 1 tool")
        await chat.type("/mcp restart good")  # its command was asked for already
        await chat.until(lambda: chat.seen.count("good runs, 1 tool") == 2)
        await chat.type("/tools")
        await chat.until("good.echo  (asks)")
    assert tools.servers.clients == {}


async def test_a_server_that_is_slow_to_stop_does_not_hold_the_screen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tools = ChatTools(mcp_file(tmp_path, good="well"), ["good.*"])
    over, close = threading.Event(), McpClient.close

    def slow(client: McpClient) -> None:
        assert over.wait(60)
        close(client)

    def prepare(chat: Any) -> list[str]:
        chat.tools = tools
        return []

    async with run_chat([Answer("hi")], tools=tools, prepare=prepare, size=(90, 30)) as chat:
        await chat.until("1 tool of 1 server")
        monkeypatch.setattr(McpClient, "close", slow)
        await chat.type("/mcp stop good")
        await chat.until("stopping good")
        await chat.type("hello")
        await chat.until("hello")
        assert "stopped: good" not in chat.seen and tools.known() == []
        over.set()
        await chat.until("stopped: good")
        await chat.until("hi")
        await chat.type("/mcp stop none")
        await chat.until("no such server")


async def test_a_kept_conversation_shows_its_calls(tmp_path: Path) -> None:
    call = ToolCall("echo", {"a": "b"}, "1").as_message()
    messages = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "[good.echo]\nfine"},
        {"role": "tool", "content": {"odd": 1}},
        {"role": "assistant", "content": "Done."},
    ]
    async with run_chat() as chat:
        chat.app.show_messages(messages)
        await chat.until("Done.")
        for text in ("▸ echo", 'a: "b"', "│ [good.echo]", '{"odd": 1}'):
            assert text in chat.seen

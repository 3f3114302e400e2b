"""Lone surrogates from tools and servers: each becomes U+FFFD, and the chat goes on."""

from __future__ import annotations

import json

import pytest

from qwen3_mlx.model import Qwen3
from qwen3_mlx.tools.agent import tool_of
from qwen3_mlx.tools.consent import No
from qwen3_mlx.tools.loop import ToolLoop
from qwen3_mlx.tools.servers import McpServers
from qwen3_mlx.tools.surrogates import whole_json, whole_text
from qwen3_mlx.tools.transport import parsed
from tests import tiny
from tests.tools.test_loop import a_loop, a_tool, call_text, done, results, say_in_turn
from tests.tools.test_servers import config


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return Qwen3(tiny.runtime(8, max_position_embeddings=8192))


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ("plain", "plain"),
        ("cut \ud83d", "cut \ufffd"),
        ("caf\udce9", "caf\ufffd"),
        ("\ud83d\ude00 \ude00\ud83d", "\U0001f600 \ufffd\ufffd"),
        ("\ufeff日本\U0001f600", "\ufeff日本\U0001f600"),
    ],
)
def test_only_lone_surrogates_are_replaced(given: str, want: str) -> None:
    assert whole_text(given) == want
    assert whole_json({given: [given, {"a": (7, None)}]}) == {want: [want, {"a": (7, None)}]}


@pytest.mark.parametrize("deep", [b"[" * 900 + b'"\\ud800"' + b"]" * 900, b'"\xed\xa0\x80"'])
def test_a_server_s_message_has_none_at_any_depth(deep: bytes) -> None:
    (message,) = parsed(b'{"jsonrpc": "2.0", "id": 1, "result": {"\\udfff": ' + deep + b"}}")
    json.dumps(message, ensure_ascii=False).encode("utf-8")


def failing() -> str:
    raise ValueError("no file caf\udce9")


@pytest.mark.parametrize("work", [lambda: "caf\udce9", failing])
def test_a_function_s_result_or_error_costs_one_message(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, work: object
) -> None:
    say_in_turn(monkeypatch, model, [call_text(), "Done."])
    loop = a_loop(model, a_tool(work))  # type: ignore[arg-type]
    events = list(loop.send("go"))
    assert "caf\ufffd" in results(events)[0].text and done(events).ending == "answered"
    assert list(loop.send("and now?"))


def test_a_reason_for_no_costs_one_message(monkeypatch: pytest.MonkeyPatch, model: Qwen3) -> None:
    say_in_turn(monkeypatch, model, [call_text(), "Done."])
    events = list(a_loop(model, ask=lambda *_: No("\udc80"), allowed=()).send("go"))
    assert "\ufffd" in results(events)[0].text and done(events).ending == "answered"


def test_a_function_is_offered_whatever_its_docstring_has(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3
) -> None:
    names = ["caf\udce9"]

    def f(a: list[str] = names) -> str:
        return ""

    f.__doc__ = "Opens caf\udce9."
    say_in_turn(monkeypatch, model, ["Done."])
    tool = tool_of(f)
    assert done(list(a_loop(model, tool).send("go"))).ending == "answered"
    assert tool.description == "Opens caf\ufffd." and names == ["caf\udce9"]


def test_a_server_is_offered_whatever_its_descriptions_have(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3
) -> None:
    with McpServers([config("half-emoji")]) as servers:
        tools = servers.tools()
        say_in_turn(monkeypatch, model, [call_text("echo"), "Done."])
        loop: ToolLoop = a_loop(model, *tools, allowed=["h.*"])
        events = list(loop.send("go"))
        assert tools[0].description == "Says \ufffd." and servers.remarks() == []
    assert "cut \ufffd, whole \U0001f600" in results(events)[0].text
    assert done(events).ending == "answered"

"""MCP servers over HTTP that flood, hang, lie and break off: each call gives one result."""

from __future__ import annotations

import threading
import time

import pytest

from qwen3_mlx.tools import http
from qwen3_mlx.tools.server_file import ServerConfig
from qwen3_mlx.tools.servers import McpServers
from qwen3_mlx.tools.tool import Cancel
from tests.tools.hostile_http import stub
from tests.tools.test_servers import call, config


@pytest.mark.parametrize(
    ("how", "failed", "text"),
    [
        ("well", False, '{"a": 1}'),
        ("flood", False, ""),
        ("closes", False, ""),
        ("big", True, "more than 32 MB"),
        ("big-event", True, "more than 32 MB"),
        ("endless-line", True, "more than 32 MB"),
        ("binary", True, "no answer"),
        ("page", True, "no answer"),
        ("half", True, ""),
        ("elsewhere", True, "302"),
        ("refused", True, "it wants to know who asks"),
        ("no-http", True, ""),
    ],
)
def test_whatever_a_server_answers_a_call_gives_one_result(
    how: str, failed: bool, text: str
) -> None:
    with (
        stub(how) as server,
        McpServers([ServerConfig("h", url=server.url)], call_seconds=60) as servers,
    ):
        assert servers.failures == {}
        result = call(servers, a=1)
        assert (result.failed, text in result.text) == (failed, True), result.text
        assert len(result.text) < 400 and "abcdefgh1234" not in result.text
        server.how = "well"
        assert call(servers, a=2).text == '{"a": 2}'


def test_nobody_at_the_address_is_no_word_of_the_server() -> None:
    with stub("well") as server:
        url = server.url
    with McpServers([ServerConfig("h", url=url)]) as servers:
        (remark,) = servers.remarks()
    assert remark.startswith("h: the server h gave no answer: got ") and "says" not in remark
    assert remark.endswith("(is an MCP server running at this address?)")


def test_silence_ends_and_the_server_is_told() -> None:
    with stub("hang") as server:
        with McpServers([ServerConfig("h", url=server.url)], call_seconds=0.8) as servers:
            assert "0.8 s of silence" in call(servers).text
            server.how = "well"
            assert not call(servers).failed
        assert "notifications/cancelled" in [asked.get("method") for asked in server.asked]


def test_a_call_is_cancelled_while_the_server_is_silent() -> None:
    with (
        stub("hang") as server,
        McpServers([ServerConfig("h", url=server.url)], call_seconds=60) as servers,
    ):
        cancel = Cancel()
        threading.Thread(target=cancel.ask).start()
        assert "cancelled" in call(servers, cancel).text


def test_lies_are_left_out_and_names_that_collide_are_told_apart() -> None:
    with stub("lies") as server:
        configs = [ServerConfig("h", url=server.url), config("well", "g")]
        with McpServers(configs) as servers:
            assert [tool.name for tool in servers.tools()] == ["h__echo", "g__echo"]
            assert len(servers.remarks()) == 3 and "\x1b" not in "".join(servers.remarks())


def test_a_server_that_is_gone_is_said() -> None:
    with stub("well") as server:
        url = server.url
    with McpServers([ServerConfig("h", url=url)]) as servers:
        assert "refused" in servers.failures["h"] and servers.tools() == []


def test_an_answer_may_come_later_than_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CONNECT_SECONDS", 0.1)
    with (
        stub("late") as server,
        McpServers([ServerConfig("h", url=server.url)], call_seconds=60) as servers,
    ):
        assert call(servers, a=1).text == '{"a": 1}'


def test_what_a_server_says_unasked_is_heard_and_answered() -> None:
    with stub("unasked") as server:
        with McpServers([ServerConfig("h", url=server.url)]) as servers:
            assert server.listened.wait(60)  # it has our answer to its ping
            assert server.replies == [{"jsonrpc": "2.0", "id": "p", "result": {}}]
            changed = threading.Event()
            while not servers.changed:  # it follows in the same stream
                changed.wait(0.01)
        threads_end()


@pytest.mark.parametrize("how", ["asks-back", "asks-back-and-closes"])
def test_a_request_of_the_server_may_have_the_number_of_a_call(how: str) -> None:
    with (
        stub(how) as server,
        McpServers([ServerConfig("h", url=server.url)], call_seconds=10) as servers,
    ):
        result = call(servers)
        assert (result.text, result.failed) == ("", False)
        assert [(one["id"], one["result"]) for one in server.replies] == [
            (server.asked[-1]["id"], {})
        ]


@pytest.mark.parametrize("number", [[1], {"a": 1}])
def test_a_number_that_is_none_is_sent_back(
    number: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = list[threading.ExceptHookArgs]()
    monkeypatch.setattr(threading, "excepthook", faults.append)
    with stub("unasked") as server, McpServers([ServerConfig("h", url=server.url)]) as servers:
        assert server.listened.wait(60)
        servers.clients["h"].received({"jsonrpc": "2.0", "id": number, "method": "ping"})
        assert [one["id"] for one in server.replies] == ["p", number] and not faults


def test_a_stream_that_is_closed_again_and_again_ends_with_its_call() -> None:
    with (
        stub("closes-for-ever") as server,
        McpServers([ServerConfig("h", url=server.url)], call_seconds=0.2) as servers,
    ):
        assert "0.2 s of silence" in call(servers).text
        threads_end("mcp post")


@pytest.mark.parametrize("place", ["/mcp/", "mcp/?a=1", "/v2/mcp#part"])
@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_within_the_server_is_followed(place: str, status: int) -> None:
    with (
        stub(f"moved {status} {place}") as server,
        McpServers([ServerConfig("h", url=server.url, headers={"X-Key": "k"})]) as servers,
    ):
        assert servers.failures == {} and call(servers, a=1).text == '{"a": 1}'
        assert server.headers[-1]["X-Key"] == "k"


def test_a_page_for_people_behind_a_get_changes_no_address() -> None:
    with (
        stub("get-elsewhere") as server,
        McpServers([ServerConfig("h", url=server.url)]) as servers,
    ):
        assert server.go_on.wait(10) and servers.failures == {}
        time.sleep(0.2)  # a redirect that is followed has been by then
        for number in range(3):
            assert call(servers, a=number).text == f'{{"a": {number}}}'


@pytest.mark.parametrize(
    ("status", "place"),
    [
        (307, "/\u00e4"),
        (307, "http://localhost:1/mcp"),
        (308, "https://127.0.0.1/mcp"),
        (307, "//example.org/mcp"),
        (307, "http://127.0.0.1:bad/"),
        (307, "/mcp"),
        (302, "/mcp/"),
        (303, "/login"),
    ],
)
def test_any_other_redirect_is_not_followed_and_named(status: int, place: str) -> None:
    with (
        stub(f"moved {status} {place}") as server,
        McpServers([ServerConfig("h", url=server.url)]) as servers,
    ):
        assert str(status) in servers.failures["h"] and place in servers.failures["h"]


def threads_end(names: str = "mcp") -> None:
    for thread in threading.enumerate():
        if thread.name.startswith(names):
            thread.join(60)
            assert not thread.is_alive(), thread.name

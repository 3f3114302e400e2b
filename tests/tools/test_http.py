"""MCP servers over HTTP that flood, hang, lie and break off: each call gives one result."""

from __future__ import annotations

import threading

import pytest

from qwen3_mlx.tools.servers import McpServers, ServerConfig
from qwen3_mlx.tools.tool import Cancel
from tests.tools.hostile_http import stub
from tests.tools.test_servers import call, config


@pytest.mark.parametrize(
    ("how", "failed", "text"),
    [
        ("well", False, '{"a": 1}'),
        ("flood", False, ""),
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


def test_silence_ends_and_the_server_is_told() -> None:
    with stub("hang") as server:
        with McpServers([ServerConfig("h", url=server.url)], call_seconds=0.1) as servers:
            assert "0.1 s of silence" in call(servers).text
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

"""What people write in a file of tool servers, and what their servers do that few others do."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.errors import OptionError
from qwen3_mlx.tools.server_file import ServerConfig, read_config
from qwen3_mlx.tools.servers import McpServers
from qwen3_mlx.tools.tool import Cancel
from tests.tools.hostile_http import stub
from tests.tools.test_servers import call, config

ADDRESS = "http://127.0.0.1:9/mcp"


def refusal(folder: Path, servers: Any) -> str:
    file = folder / "mcp.json"
    text = servers if isinstance(servers, str) else json.dumps({"mcpServers": servers})
    file.write_text(text, "utf-8")
    with pytest.raises(OptionError) as caught:
        read_config(file)
    return str(caught.value).replace(str(file), "FILE")


@pytest.mark.parametrize(
    ("one", "said"),
    [
        ({"command": "x", "env": {"PORT": 8080}}, "a.env.PORT: got int, expected a text"),
        ({"command": "x", "env": {"PORT": None}}, 'between quotes: {"PORT": "…"}'),
        ({"url": ADDRESS, "headers": {"X-N": 3}}, "a.headers.X-N: got int, expected a text"),
        ({"command": ["npx", "-y"]}, 'a.command: got a list, expected a text\nhint: "command" is'),
        ({"command": "x", "args": ["-p", 80]}, 'a.args: got ["-p", 80], expected a list of texts'),
        ({"command": "x", "disabled": "true"}, 'a.disabled: got "true", expected true or false'),
        ({"command": "x", "enabled": 0}, "a.enabled: got 0, expected true or false"),
        ({"url": "http://[::1/mcp"}, "a server's url: got http://[::1/mcp: Invalid IPv6 URL"),
        ({"url": "http://h:abc/mcp"}, "Port could not be cast"),
        ({"url": "http://h:99999/"}, "Port out of range"),
        ({"url": "h:8080/mcp"}, "got h:8080/mcp, expected http://… or https://…"),
        ({"url": "ws://h/mcp"}, "got ws://h/mcp, expected http://… or https://…"),
        ({"url": "http://h/a b"}, "a space is %20"),
        ({"url": "http://h/ü"}, r"got 'http://h/\xfc', expected ASCII letters"),
        ({"url": "http://me:s3cret@h/"}, '"headers": {"Authorization": "Basic …"}'),
        ({"url": ADDRESS, "headers": {"A": "s3cret\n"}}, "a.headers.A: got a line break"),
        ({"url": ADDRESS, "headers": {"A": "s3cret\n"}}, "at its end: does the variable"),
        ({"url": ADDRESS, "headers": {"A": "日本 s3cret"}}, "a.headers.A: got a line break or"),
        ({"url": ADDRESS, "headers": {"A b": "s3cret"}}, "a.headers: got the name 'A b'"),
    ],
)
def test_what_is_wrong_in_the_file_is_named_by_its_key(
    one: dict[str, Any], said: str, tmp_path: Path
) -> None:
    found = refusal(tmp_path, {"a": one})
    assert said in found and found.startswith("FILE: a") and "s3cret" not in found


def test_a_server_that_stands_twice_is_no_other_in_silence(tmp_path: Path) -> None:
    text = '{"mcpServers": {"a": {"command": "x"}, "a": {"command": "y"}}}'
    assert "the key 'a' twice in one object" in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("url", "headers"), [("http://[::1/mcp", {}), ("http://h:x/", {}), (ADDRESS, {"A": "b\n"})]
)
def test_an_address_that_is_none_costs_its_server_alone(url: str, headers: dict[str, str]) -> None:
    with McpServers([ServerConfig("h", url=url, headers=headers), config("well", "b")]) as servers:
        assert "a server's" in servers.failures["h"]
        assert [tool.name for tool in servers.tools()] == ["echo"]


def test_names_that_collide_when_they_are_told_apart_are_still_each_another() -> None:
    """Two tools of one name offered at once would be an error in every turn."""
    listed = {"a": "x b__x", "b": "x x__y", "a__b": "c", "c": "a__x c", "a_": "_x", "d": "c b__c"}
    configs = [config(f"named {names}", name) for name, names in listed.items()]
    with McpServers(configs) as servers:
        found = {tool.full_name: tool.name for tool in servers.tools()}
        assert [tool.name for tool in servers.tools()] == list(found.values())
    assert len(set(found.values())) == len(found) == 10
    assert (found["a.b__x"], found["c.a__x"]) == ("b__x", "a__x")
    assert (found["a.x"], found["b.x"], found["b.x__y"]) == ("a__x_2", "b__x_2", "x__y")
    assert (found["a__b.c"], found["d.c"], found["d.b__c"]) == ("a__b__c", "d__c", "b__c")


def test_a_server_without_tools_runs_and_says_so() -> None:
    with McpServers([config("no-tools"), config("well", "b")]) as servers:
        assert servers.failures == {} and [tool.name for tool in servers.tools()] == ["echo"]
        assert servers.remarks() == ["h has no tools, but prompts, resources"]


def test_a_server_that_was_started_again_goes_on_in_a_new_session() -> None:
    """As the specification asks of a client whose session id gets a 404; once for several calls."""
    with stub("forgets") as server:
        server.session = "one"
        with McpServers([ServerConfig("h", url=server.url)]) as servers:
            assert call(servers, a=1).text == '{"a": 1}'
            server.session = "two"
            results: list[str] = []
            (tool,) = servers.tools()  # once: whoever lists them anew takes back that they changed
            calls = [
                threading.Thread(
                    target=lambda n=n: results.append(tool.run({"a": n}, Cancel()).text)
                )
                for n in range(4)
            ]
            for one in calls:
                one.start()
            for one in calls:
                one.join(30)
            assert sorted(results) == [f'{{"a": {n}}}' for n in range(4)]
            begun = [one for one in server.asked if one["method"] == "initialize"]
            assert len(begun) == 2 and servers.changed, "its tools may be others now"
            server.how, server.session = "forgets", "three"
            assert not call(servers, a=5).failed
        assert server.headers[-1]["Mcp-Session-Id"] == "three"


def test_a_server_that_ends_each_session_at_once_gives_one_error() -> None:
    with stub("forgets") as server:
        server.session = "one"
        with McpServers([ServerConfig("h", url=server.url)]) as servers:
            server.session = ""
            result = call(servers, a=1)
            assert result.failed and "404 Not Found" in result.text

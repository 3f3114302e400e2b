"""The official SDK's servers, over stdio and over streamable HTTP."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from qwen3_mlx.tools.server_file import ServerConfig
from qwen3_mlx.tools.servers import McpServers
from qwen3_mlx.tools.tool import Cancel

pytestmark = pytest.mark.skipif(
    find_spec("mcp") is None, reason="the SDK isn't installed: uv sync --group clients"
)
SERVER = str(Path(__file__).with_name("sdk_server.py"))


def check(one: ServerConfig) -> None:
    with McpServers([one], call_seconds=20) as servers:
        assert servers.failures == {} and servers.remarks() == []
        add, fail = servers.tools()
        assert add.description == "Adds two numbers."
        assert set(add.parameters["properties"]) == {"a", "b"}
        assert add.run({"a": 2, "b": 3}, Cancel()).text == "5"
        assert add.run({"a": "x"}, Cancel()).failed
        assert fail.run({}, Cancel()).failed
        assert add.run({"a": 1, "b": 1}, Cancel()).text == "2"


def test_stdio() -> None:
    check(ServerConfig("small", (sys.executable, SERVER)))


def test_streamable_http() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, SERVER, str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(port)
            check(ServerConfig("small", url=f"http://127.0.0.1:{port}/mcp"))
        finally:
            server.terminate()


def _wait_for(port: int) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError("the server didn't begin to listen")


@pytest.mark.skipif(find_spec("mcp_server_time") is None, reason="mcp-server-time isn't installed")
def test_the_time_server() -> None:
    one = ServerConfig("time", (sys.executable, "-m", "mcp_server_time"))
    with McpServers([one]) as servers:
        assert servers.failures == {}
        now = next(tool for tool in servers.tools() if tool.name == "get_current_time")
        found = now.run({"timezone": "Europe/Berlin"}, Cancel())
        assert not found.failed and '"Europe/Berlin"' in found.text

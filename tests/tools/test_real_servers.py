"""The servers that others wrote: server-everything and server-filesystem, over both transports."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.tools import http, stdio
from qwen3_mlx.tools.http import Http
from qwen3_mlx.tools.server_file import ServerConfig
from qwen3_mlx.tools.servers import McpServers
from qwen3_mlx.tools.stdio import Stdio
from qwen3_mlx.tools.tool import Cancel, Result, Tool
from qwen3_mlx.tools.transport import Message
from tests.tools.install import HOW, command

EVERYTHING, FILES = command("everything"), command("filesystem")
pytestmark = pytest.mark.skipif(EVERYTHING is None or FILES is None, reason=HOW)
SECONDS = 60.0


@contextmanager
def over_http() -> Iterator[str]:
    """server-everything behind an address."""
    assert EVERYTHING is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [*EVERYTHING, "streamableHttp"],
        env=os.environ | {"PORT": str(port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        assert b"listening" in process.stderr.readline()
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill()
        process.communicate()


def named(servers: McpServers) -> dict[str, Tool]:
    assert servers.failures == {}
    return {tool.called: tool for tool in servers.tools()}


@pytest.fixture(scope="module", params=["stdio", "http"])
def everything(request: pytest.FixtureRequest) -> Iterator[McpServers]:
    if request.param == "stdio":
        with McpServers([ServerConfig("e", EVERYTHING or ())], call_seconds=SECONDS) as servers:
            yield servers
    else:
        with (
            over_http() as url,
            McpServers([ServerConfig("e", url=url)], call_seconds=SECONDS) as servers,
        ):
            yield servers


def test_its_tools_are_listed_and_one_that_we_cannot_run_is_left_out(
    everything: McpServers,
) -> None:
    tools = named(everything)
    assert len(tools) == 12 and tools["echo"].hints == ("read-only",)
    assert everything.remarks() == [
        "e: simulate-research-query is left out: it runs as a task only"
    ]


GZIP = {"name": "x.gz", "data": "data:text/plain,hello"}


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("echo", {"message": "ä\u2028<|im_end|>"}, "Echo: ä\u2028<|im_end|>"),
        ("get-sum", {"a": 2, "b": 3.5}, "5.5"),
        ("get-annotated-message", {"messageType": "debug", "includeImage": True}, "[image: image/"),
        ("get-env", {}, '"PATH"'),
        ("get-resource-links", {"count": 2}, "demo://resource/dynamic/text/2]"),
        ("get-resource-reference", {"resourceType": "Text", "resourceId": 1}, "a plaintext"),
        ("get-resource-reference", {"resourceType": "Blob", "resourceId": 2}, "blob/2: no text]"),
        ("get-structured-content", {"location": "Chicago"}, '"humidity":82'),
        ("get-tiny-image", {}, "requested:\n[image: image/png]\nThe image above"),
        ("gzip-file-as-resource", GZIP | {"outputType": "resource"}, "x.gz: no text]"),
        ("gzip-file-as-resource", GZIP | {"outputType": "resourceLink"}, "[x.gz: demo://"),
        ("toggle-simulated-logging", {}, "Started"),
        ("toggle-subscriber-updates", {}, "Started"),
        ("trigger-long-running-operation", {"duration": 0.1, "steps": 5}, "Steps: 5"),
    ],
)
def test_a_call_gives_text(
    everything: McpServers, name: str, arguments: dict[str, Any], text: str
) -> None:
    result = named(everything)[name].run(arguments, Cancel())
    assert (result.failed, text in result.text) == (False, True), result.text


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("echo", {}), ("get-sum", {"a": "x", "b": 1}), ("get-structured-content", {"location": "X"})],
)
def test_wrong_arguments_are_said(
    everything: McpServers, name: str, arguments: dict[str, Any]
) -> None:
    result = named(everything)[name].run(arguments, Cancel())
    assert result.failed and "Invalid" in result.text


def test_a_long_call_is_cancelled_and_the_server_goes_on(everything: McpServers) -> None:
    tools, cancel = named(everything), Cancel()
    long, given = tools["trigger-long-running-operation"], {"duration": 500, "steps": 5}
    found: list[Result] = []
    call = threading.Thread(target=lambda: found.append(long.run(given, cancel)))
    call.start()
    assert "Echo: a" in tools["echo"].run({"message": "a"}, Cancel()).text  # beside it
    cancel.ask()
    call.join(SECONDS)
    assert found[0].failed and "cancelled" in found[0].text
    assert "Echo: b" in tools["echo"].run({"message": "b"}, Cancel()).text


TASKS = {"sampling": {"createMessage": {}}, "elicitation": {"create": {}}}
ALL = {
    "sampling": {},
    "elicitation": {"form": {}, "url": {}},
    "roots": {"listChanged": True},
    "tasks": {"list": {}, "cancel": {}, "requests": TASKS},
}


def boasting(kind: type[Stdio] | type[Http]) -> Any:
    """A transport that claims all that a client may offer, so that the server asks for it."""

    class Boasting(kind):  # type: ignore[misc, valid-type]
        def send(self, message: Message) -> None:
            if message["method"] == "initialize" if "method" in message else False:
                message["params"]["capabilities"] = ALL
            super().send(message)

    return Boasting


ASKING: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("trigger-sampling-request", {"prompt": "Hi"}, "sampling/createMessage is not offered"),
    ("trigger-sampling-request-async", {"prompt": "Hi"}, "sampling/createMessage is not offered"),
    ("trigger-elicitation-request", {}, "elicitation/create is not offered"),
    ("trigger-elicitation-request-async", {}, "elicitation/create is not offered"),
    ("trigger-url-elicitation", {"url": "https://a.b"}, "elicitation/create is not offered"),
    ("trigger-url-elicitation", {"url": "https://a.b", "errorPath": True}, "-32042"),
)


@pytest.mark.parametrize("transport", ["stdio", "http"])
def test_what_a_server_asks_of_us_is_refused_and_nothing_hangs(
    monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    monkeypatch.setattr(stdio, "Stdio", boasting(Stdio))
    monkeypatch.setattr(http, "Http", boasting(Http))
    with over_http() as url:
        one = ServerConfig("e", EVERYTHING or ()) if transport == "stdio" else None
        with McpServers([one or ServerConfig("e", url=url)], call_seconds=SECONDS) as servers:
            tools = named(servers)
            for name, arguments, text in ASKING:
                result = tools[name].run(arguments, Cancel())
                assert result.failed and text in result.text, (name, result.text)
            assert "no roots" in tools["get-roots-list"].run({}, Cancel()).text


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Tool], Path]]:
    root = tmp_path_factory.mktemp("root").resolve()
    one = ServerConfig("f", (*(FILES or ()), str(root)))
    with McpServers([one], call_seconds=SECONDS) as servers:
        yield named(servers), root


def test_server_filesystem_reads_writes_and_edits(files: tuple[dict[str, Tool], Path]) -> None:
    tools, root = files
    assert tools["write_file"].hints == ("destructive",) and len(tools) == 14

    def run(name: str, **arguments: Any) -> Result:
        return tools[name].run(arguments, Cancel())

    assert not run("write_file", path=f"{root}/a.py", content="x = 1\n").failed
    edits = [{"oldText": "x = 1", "newText": "x = 2"}]
    assert "+x = 2" in run("edit_file", path=f"{root}/a.py", edits=edits).text
    assert (root / "a.py").read_text() == "x = 2\n"
    (root / "b").write_bytes(bytes(range(256)))
    assert "no text" in run("read_media_file", path=f"{root}/b").text
    assert '"a.py"' in run("directory_tree", path=str(root)).text
    for name, given in (
        ("read_text_file", {"path": "/etc/passwd"}),
        ("read_text_file", {"path": f"{root}/none"}),
        ("edit_file", {"path": f"{root}/a.py", "edits": [{"oldText": "y", "newText": "z"}]}),
        ("write_file", {"path": f"{root}/c"}),
    ):
        assert tools[name].run(given, Cancel()).failed

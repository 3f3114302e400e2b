"""What comes in the wrong moment: a pipe's end before the last words, an answer behind a cancel."""

from __future__ import annotations

import json
import os
import threading
import time
from concurrent.futures import Future
from typing import Any

import pytest

from qwen3_mlx.errors import ToolError
from qwen3_mlx.tools import stdio
from qwen3_mlx.tools.client import VERSION, McpClient
from qwen3_mlx.tools.stdio import Stdio
from qwen3_mlx.tools.tool import Cancel
from qwen3_mlx.tools.transport import Message, Receiver


class Heard:
    """Notes why the server was lost."""

    def __init__(self) -> None:
        self.over, self.why = threading.Event(), ""

    def received(self, message: Message) -> None: ...

    def lost(self, why: str) -> None:
        self.why = why
        self.over.set()


def late_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server printed on stderr is read half a second after its end."""
    read = os.read

    def late(file: int, size: int) -> bytes:
        time.sleep(0.5)
        return read(file, size)

    monkeypatch.setattr(stdio.os, "read", late)


DIES = ["sh", "-c", "echo out of luck >&2; exit 3"]


def test_last_words_that_are_read_late_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    late_reader(monkeypatch)
    heard = Heard()
    server = Stdio(DIES, {}, heard)
    assert heard.over.wait(30)
    server.close()
    assert heard.why == "it ended with exit code 3: out of luck"


def test_a_server_that_ends_before_it_is_read_is_lost_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each thread may run to its end before the program goes on behind `start`."""
    start = threading.Thread.start

    def slow(thread: threading.Thread) -> None:
        start(thread)
        time.sleep(0.2)

    monkeypatch.setattr(threading.Thread, "start", slow)
    heard = Heard()
    server = Stdio(DIES, {}, heard)
    assert heard.over.wait(5)
    server.close()


def test_who_writes_to_a_server_that_has_ended_hears_how(monkeypatch: pytest.MonkeyPatch) -> None:
    late_reader(monkeypatch)
    server = Stdio(DIES, {}, Heard())
    with pytest.raises(ToolError, match="exit code 3: out of luck"):
        while True:  # its pipe takes some bytes as long as nobody has closed it
            server.send({"text": "x" * 100_000})
    server.close()


class Wire:
    """A server in this process, whose answer to a call is `result`."""

    ended = ""

    def __init__(self, receiver: Receiver, result: Any) -> None:
        self.receiver, self.result = receiver, result
        self.before = threading.Event().set  # what happens just before an answer to a call

    def send(self, message: Message) -> None:
        if message.get("method") == "initialize":
            self.answer(message, {"protocolVersion": VERSION})
        elif message.get("method") == "tools/call":
            self.before()
            self.answer(message, self.result)

    def answer(self, message: Message, result: Any) -> None:
        self.receiver.received({"jsonrpc": "2.0", "id": message["id"], "result": result})

    def close(self) -> None: ...


def connected(result: Any) -> tuple[McpClient, Wire]:
    wires: list[Wire] = []

    def connect(receiver: Receiver) -> Wire:
        wires.append(Wire(receiver, result))
        return wires[0]

    return McpClient("s", connect, lambda: None), wires[0]


def test_an_answer_in_the_moment_of_a_cancel_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Future, "done", lambda _: False)  # asked just before the cancel
    client, wire = connected({"content": []})
    cancel = Cancel()
    wire.before = cancel.ask
    result = client.call("f", {}, cancel, 30)  # an error here would end a transport's thread
    assert result.failed and "cancelled" in result.text
    wire.before = lambda: None
    assert not client.call("f", {}, Cancel(), 30).failed


def test_an_answer_of_too_many_levels_is_a_failed_result() -> None:
    deep: Any = {}
    for _ in range(20_000):
        deep = {"a": deep}
    with pytest.raises(RecursionError):
        json.dumps(deep)
    client, _ = connected({"structuredContent": deep})
    result = client.call("f", {}, Cancel(), 30)
    assert result.failed and "too many levels" in result.text

"""A server on a loopback socket, and a client that hides nothing of HTTP."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from qwen3_mlx.model import Qwen3
from qwen3_mlx.serve.app import build
from qwen3_mlx.serve.run import bind, new_server, start
from qwen3_mlx.serve.settings import Settings

JSON = {"content-type": "application/json"}
Json = dict[str, Any]


@dataclass
class Answer:
    """A whole response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Sent:
    """One event of a stream; `name` is "" where the dialect gives none, ":" for a comment."""

    name: str
    data: Any


@dataclass
class Client:
    """Asks the server at `port`; a connection a request."""

    port: int
    headers: dict[str, str] = field(default_factory=dict)

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)) as connection:
            sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            known = JSON if sent is not None else {}
            connection.request(method, path, sent, known | self.headers | named)
            got = connection.getresponse()
            found = {name.lower(): value for name, value in got.getheaders()}
            return Answer(got.status, found, got.read())

    def get(self, path: str, **headers: str) -> Answer:
        return self("GET", path, **headers)

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return self("POST", path, body, **headers)

    def ok(self, path: str, body: Any) -> Any:
        """The JSON of an answer that must be one."""
        got = self.post(path, body)
        assert got.status == 200, got.body
        return got.json

    def stream(self, path: str, body: Json) -> list[Sent]:
        """All events of a stream that must be one."""
        got = self.post(path, body | {"stream": True})
        assert got.status == 200, got.body
        assert got.headers["content-type"].startswith("text/event-stream")
        return list(events(got.body.decode()))

    def begin(self, path: str, body: Any, read: int = 0) -> socket.socket:
        """A request whose answer is not read further than its first `read` bytes."""
        sent = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        head += "content-type: application/json\r\n"
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=300)
        connection.sendall(f"{head}content-length: {len(sent)}\r\n\r\n".encode() + sent)
        if read:
            connection.recv(read, socket.MSG_WAITALL)
        return connection

    def raw(self, sent: bytes, timeout: float = 30) -> bytes:
        """What comes back for these bytes until the server closes, or nothing for a while."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            connection.sendall(sent)
            found = b""
            try:
                while piece := connection.recv(65_536):
                    found += piece
            except (TimeoutError, ConnectionError):
                pass
            return found


def wait_for(true: Callable[[], object], seconds: float = 30) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not become true in time"
        time.sleep(0.005)


def rest(connection: socket.socket) -> bytes:
    """What comes until the server closes; closes our side too."""
    with connection:
        found = b""
        while piece := connection.recv(65_536):
            found += piece
        return found


def events(text: str) -> Iterator[Sent]:
    """A stream's events, in order."""
    for block in text.split("\n\n"):
        name, data = "", None
        for line in block.splitlines():
            if line.startswith(":"):
                name, data = ":", line[1:].strip()
            elif line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                data = line[6:] if line == "data: [DONE]" else json.loads(line[6:])
        if block:
            yield Sent(name, data)


class Server(Client):
    """A model that is served, in this process."""

    def __init__(self, model: Qwen3, **settings: Any) -> None:
        chosen = Settings(**({"port": 0, "drain_seconds": 5.0} | settings))
        self.listener = bind(chosen.host, chosen.port)
        super().__init__(self.listener.getsockname()[1])
        self.desk = start(model, chosen)
        self.scheduler, listening = self.desk.scheduler, threading.Event()
        app = build(self.desk, chosen.rules(), chosen.strict)
        self.server = new_server(app, self.desk, chosen.drain_seconds, listening.set)
        self.thread = threading.Thread(target=self.server.run, args=([self.listener],))
        self.thread.start()
        listening.wait()

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(60)
        self.desk.keep_prefixes()
        self.desk.close()
        assert not self.thread.is_alive()


@contextmanager
def serving(model: Qwen3, **settings: Any) -> Iterator[Server]:
    """A server for a while."""
    server = Server(model, **settings)
    try:
        yield server
    finally:
        server.close()

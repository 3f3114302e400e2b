"""An MCP server over HTTP, in this process, that misbehaves in its tools' calls as it is told."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ECHO = {"name": "echo", "description": "Says it.", "inputSchema": {"type": "object"}}
LIES = [{"name": 3}, {"name": "x", "inputSchema": "none"}, {"name": "\x1b[2J"}, ECHO]
BIG = 33 * 2**20


class Stub(ThreadingHTTPServer):
    """The server, and what was asked of it."""

    daemon_threads = True

    def __init__(self, how: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.how, self.asked = how, list[dict[str, Any]]()
        self.go_on, self.listened = threading.Event(), threading.Event()
        self.session = ""
        """The id of the session that it gives and knows, if it has any."""
        self.replies, self.headers = list[dict[str, Any]](), list[Any]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/mcp"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Stub

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_DELETE(self) -> None:
        self._send(b"", "text/plain")

    def do_GET(self) -> None:
        if last := self.headers.get("Last-Event-ID"):
            self._resumed(last)
        elif self.server.how == "get-elsewhere":
            self.server.go_on.set()
            status = 200 if self.path == "/docs" else 307
            self._send(b"for people", "text/html", status, Location="/docs")
        elif self.server.how == "unasked":
            self._stream()
            self._event({"id": "p", "method": "ping"})
            self._event({"method": "notifications/tools/list_changed"})
            self.server.go_on.wait(60)
        else:
            self._send(b"", "text/plain", 405)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.how == "get-elsewhere" and self.path == "/docs":
            self._send(b"", "text/html", 405)
            return
        if self.server.how.startswith("moved") and self.path == "/mcp":
            status, place = self.server.how.split()[1:]
            self._send(b"", "text/plain", int(status), Location=place)
            return
        self.server.headers.append(self.headers)
        if "method" not in asked:
            self.server.replies.append(asked)
            self.server.listened.set()
            self._send(b"", "text/plain", 202)
            return
        self.server.asked.append(asked)
        if self.server.how == "forgets" and asked["method"] != "initialize":
            known = self.headers.get("Mcp-Session-Id") == self.server.session
            if not known:
                self._send(b"no such session", "text/plain", 404)
                return
        if "id" not in asked:
            self.send_response(202)
            self.end_headers()
        elif asked["method"] == "initialize":
            version = asked["params"]["protocolVersion"]
            self._result(asked, {"protocolVersion": version, "serverInfo": {"name": "stub"}})
        elif asked["method"] == "tools/list":
            self._result(asked, {"tools": LIES if self.server.how == "lies" else [ECHO]})
        else:
            with contextlib.suppress(OSError):  # the client has had enough
                getattr(self, f"_{self.server.how.replace('-', '_')}", self._well)(asked)

    def _result(self, asked: dict[str, Any], result: Any) -> None:
        message = {"jsonrpc": "2.0", "id": asked["id"], "result": result}
        session = {"Mcp-Session-Id": self.server.session} if self.server.session else {}
        self._send(json.dumps(message).encode(), "application/json", **session)

    def _send(self, body: bytes, kind: str, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()

    def _event(self, message: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps({"jsonrpc": "2.0"} | message).encode() + b"\n\n")

    def _well(self, asked: dict[str, Any]) -> None:
        text = json.dumps(asked["params"]["arguments"])
        self._result(asked, {"content": [{"type": "text", "text": text}]})

    def _flood(self, asked: dict[str, Any]) -> None:
        self._stream()
        for _ in range(5_000):
            self._event({"method": "notifications/message", "params": {"data": "x" * 500}})
            self._event({"id": 10**6, "result": {}})
        self._event({"id": asked["id"], "result": {"content": []}})

    def _closes(self, asked: dict[str, Any]) -> None:
        """End the stream without an answer, twice: it waits behind the last event."""
        self._stream()
        self.wfile.write(b"retry: 1\n:\nid: %d-2\ndata:\n\n" % asked["id"])

    def _resumed(self, last: str) -> None:
        number, _, times = last.partition("-")
        self._stream()
        if int(times) > 1:
            self.wfile.write(f"id: {number}-{int(times) - 1}\ndata:\n\n".encode())
        else:
            self._event({"id": int(number), "result": {"content": [], "isError": False}})

    def _closes_for_ever(self, _asked: dict[str, Any]) -> None:
        self._stream()
        self.wfile.write(b"retry: 1\nid: 0-%d\ndata:\n\n" % 10**9)

    def _big(self, _asked: dict[str, Any]) -> None:
        self._send(b'"' + b"x" * BIG + b'"', "application/json")

    def _big_event(self, _asked: dict[str, Any]) -> None:
        self._stream()
        for _ in range(34):
            self.wfile.write(b"data: " + b"x" * 2**20 + b"\n")

    def _endless_line(self, _asked: dict[str, Any]) -> None:
        self._stream()
        for _ in range(34):
            self.wfile.write(b"x" * 2**20)

    def _binary(self, _asked: dict[str, Any]) -> None:
        self._send(os.urandom(100_000), "application/json")

    def _page(self, _asked: dict[str, Any]) -> None:
        self._send(b"<html>Sign in</html>", "text/html")

    def _half(self, _asked: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"jsonrpc"')

    def _elsewhere(self, _asked: dict[str, Any]) -> None:
        self._send(b"", "text/plain", 302, Location="http://127.0.0.1:1/evil")

    def _refused(self, _asked: dict[str, Any]) -> None:
        self._send(b"Bearer abcdefgh12345678 is unknown", "text/plain", 401)

    def _asks_back(self, asked: dict[str, Any]) -> None:
        """Ask with the call's own number, and answer the call after the answer."""
        self._stream()
        self._event({"id": asked["id"], "method": "ping"})
        self.wfile.flush()
        self.server.listened.wait(60)
        time.sleep(0.2)  # what the client makes of the 202 has come by then
        self._event({"id": asked["id"], "result": {"content": []}})

    def _asks_back_and_closes(self, asked: dict[str, Any]) -> None:
        """As `_asks_back`; but the answer waits behind the last event."""
        self._stream()
        self.wfile.write(b"retry: 1\n:\nid: %d-1\n" % asked["id"])
        self._event({"id": asked["id"], "method": "ping"})
        self.wfile.flush()
        self.server.listened.wait(60)
        time.sleep(0.2)

    def _late(self, asked: dict[str, Any]) -> None:
        time.sleep(0.2)
        self._well(asked)

    def _hang(self, _asked: dict[str, Any]) -> None:
        self.server.go_on.wait(60)

    def _no_http(self, _asked: dict[str, Any]) -> None:
        self.wfile.write(b"\x00\x01 no http\r\n\r\n")


@contextmanager
def stub(how: str) -> Iterator[Stub]:
    """A server that runs within."""
    server = Stub(how)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.go_on.set()
        server.shutdown()
        server.server_close()

"""A server of scripted answers for the page, in timed streams, so that a test can act in one."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from qwen3_mlx.serve.web_page import PAGE, POLICY

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser")
"""The first is the same engine without a browser's windows: a new page takes it a quarter of the
processor's time, 0.15 seconds for 0.7."""
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
SAID = "tokens in the conversation"
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 12,
    "total_tokens": 19,
    "completion_tokens_details": {"reasoning_tokens": 5},
}


@dataclass
class Script:
    """What the next answers are, and what the page asked."""

    thought: list[str] = field(default_factory=list)
    answer: list[str] = field(default_factory=lambda: ["Hello."])
    pause: float = 0.0
    """Seconds before each piece."""
    status: int = 200
    breaks_off: bool = False
    cut: str = ""
    """Why the thought ended, if it was cut."""
    reason: str = "stop"
    """Why the answer ended."""
    family: str = "hybrid"
    key: str = ""
    progress: tuple[str, ...] = ()
    asked: list[dict[str, Any]] = field(default_factory=list)
    interrupted: list[str] = field(default_factory=list)
    gone: int = 0
    """Clients that went in the middle of an answer."""
    interrupt: threading.Event = field(default_factory=threading.Event)
    gate: threading.Event = field(default_factory=threading.Event)
    """The answer waits behind the thought until it is set, as it is at the beginning."""

    def __post_init__(self) -> None:
        self.gate.set()


def _chunk(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": None} | more
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice]}


def _pieces(script: Script) -> Iterator[dict[str, Any] | str]:
    yield from script.progress
    yield _chunk({"role": "assistant", "content": ""})
    cut = {"thinking_cut": script.cut} if script.cut else {}
    for piece in script.thought:
        if script.interrupt.wait(script.pause):
            cut = {"thinking_cut": "user"}
            break
        yield _chunk({"reasoning_content": piece})
    script.gate.wait(20)
    script.interrupt.clear()
    for piece in script.answer:
        if script.interrupt.wait(script.pause):
            break
        yield _chunk({"content": piece})
    if not script.breaks_off:
        yield _chunk({}, finish_reason=script.reason, **cut)
        yield {"id": "chatcmpl-1", "choices": [], "usage": USAGE}
        yield "data: [DONE]"


class _Handler(BaseHTTPRequestHandler):
    script: Script
    protocol_version = "HTTP/1.0"  # the end of a stream closes it

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """The page, and the model's name."""
        if self.path == "/":
            headers = {
                "content-type": "text/html; charset=utf-8",
                "content-security-policy": POLICY,
            }
            return self._send(200, headers, PAGE.read_bytes())
        if not self._allowed():
            return None
        models = {"data": [{"id": "scripted", "family": self.script.family}]}
        return self._json(200, models)

    def do_POST(self) -> None:
        """A turn, or an interruption of one."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self._allowed():
            return None
        if self.path == "/v1/interrupt":
            self.script.interrupted.append(body["kind"])
            self.script.interrupt.set()
            return self._json(200, {"id": body["id"], "interrupted": body["kind"]})
        self.script.asked.append(body)
        if self.script.status != 200:
            message = "no room for <b>this</b> prompt"
            return self._json(self.script.status, {"error": {"message": message}})
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        try:
            for piece in _pieces(self.script):
                line = piece if isinstance(piece, str) else f"data: {json.dumps(piece)}"
                self.wfile.write(f"{line}\n\n".encode())
                self.wfile.flush()
        except OSError:
            self.script.gone += 1

    def _allowed(self) -> bool:
        if not self.script.key or self.headers["authorization"] == f"Bearer {self.script.key}":
            return True
        self._json(401, {"error": {"message": "a key is needed"}})
        return False

    def _json(self, status: int, body: dict[str, Any]) -> None:
        self._send(status, {"content-type": "application/json"}, json.dumps(body).encode())

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in (headers | {"content-length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def scripted(script: Script) -> Iterator[str]:
    """The address of a server that answers by `script`."""
    handler = type("Handler", (_Handler,), {"script": script})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


def wait_for(found: Any, seconds: float = 20.0) -> None:
    """Wait until `found` gives something true."""
    until = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)


def ask(page: Any, text: str) -> None:
    page.fill("#input", text)
    page.keyboard.press("Enter")


def ended(page: Any) -> None:
    page.wait_for_selector(f"text={SAID}")

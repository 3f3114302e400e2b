"""Time limits of connections whose clients read a long answer late, or never."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn

from qwen3_mlx.serve import connection

GET = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
SIZE = 16 * 2**20
"""More than the buffers of both sides' sockets."""


async def long(scope: Any, receive: Any, send: Any) -> None:
    """An application whose every answer is long."""
    length = [(b"content-length", str(SIZE).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": b"x" * SIZE})


@contextmanager
def serving() -> Iterator[tuple[uvicorn.Server, int]]:
    """The server of `long`, and its port."""
    config = uvicorn.Config(long, http=connection.timed_protocol(), lifespan="off", log_config=None)
    server, place = uvicorn.Server(config), socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
    thread.start()
    try:
        yield server, place.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        thread.join(20)
        place.close()


def read_one(client: socket.socket) -> None:
    left = SIZE
    head = b""
    while b"\r\n\r\n" not in head:
        head += client.recv(1)
    while left:
        read = len(client.recv(min(left, 2**20)))
        assert read, f"{left} bytes are missing"
        left -= read


def test_whoever_has_read_an_answer_late_must_still_send_heads_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    with serving() as (_, port), socket.create_connection(("127.0.0.1", port), 10) as client:
        for _ in range(2):
            client.sendall(GET)
            time.sleep(0.3)  # the socket's buffers fill
            read_one(client)
        client.sendall(b"GET / HT")
        assert client.recv(1) == b"", "the rest never came"


@pytest.mark.parametrize("requests", [1, 2, 3])
def test_whoever_reads_nothing_is_dropped_however_much_was_asked(
    requests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "STUCK_SECONDS", 0.3)
    monkeypatch.setattr(connection, "IDLE_SECONDS", 0.3)
    with serving() as (server, port), socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(GET * requests)
        began = time.monotonic()
        while not server.server_state.total_requests or server.server_state.connections:
            assert time.monotonic() < began + 4, "uvicorn's own limit would come next"
            time.sleep(0.01)


def test_whoever_reads_a_complete_answer_late_has_as_long_as_for_one_that_still_grows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "IDLE_SECONDS", 0.3)
    with serving() as (_, port), socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(GET)
        time.sleep(0.6)
        read_one(client)
        assert client.recv(1) == b"", "idle from when all was read"

"""The control line: messages and heartbeats over TCP between machines that share a secret.

Each message is a line of JSON without tensors. Machines wait here, in Python, and not inside a
collective, which can't be interrupted.
"""

from __future__ import annotations

import hmac
import json
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from qwen3_mlx.errors import BackendError

Message = dict[str, Any]

BEAT_S, QUIET_S = 1.0, 6.0
"""Seconds between heartbeats, and of silence after which the other side counts as gone."""
LONGEST = 1 << 24
"""Largest message in bytes; a prompt of a million tokens is smaller."""


class Line:
    """One connection. Received messages go into a queue; `on_lost` gets the reason of its end."""

    def __init__(self, connection: socket.socket, secret: str) -> None:
        self._socket, self._secret = connection, secret
        self._sending, self._closed = threading.Lock(), threading.Event()
        self._messages: queue.Queue[Message | None] = queue.Queue()
        self._buffer = b""
        self.last_heard = time.monotonic()
        self.on_message: Callable[[Message], object] | None = None
        """Handles messages in the reading thread, instead of the queue."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(QUIET_S)

    def send(self, message: Message) -> None:
        """Send a message. Raises `OSError`."""
        data = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        with self._sending:
            self._socket.sendall(data)

    def prove(self, welcome: bool) -> Message:
        """Exchange proofs that both sides know the secret.

        Returns a message with the other's nonce. Raises `BackendError` for a wrong proof.
        """
        own = secrets.token_hex(16)
        self.send({"nonce": own})
        other = str(self.read_one().get("nonce", ""))
        self.send({"proof": self._proof(other, welcome)})
        got = str(self.read_one().get("proof", ""))
        if not hmac.compare_digest(got, self._proof(own, not welcome)):
            raise BackendError("a machine doesn't know the group's secret")
        return {"nonce": other}

    def _proof(self, nonce: str, welcome: bool) -> str:
        text = f"{'lead' if welcome else 'follow'} {nonce}".encode()
        return hmac.digest(self._secret.encode(), text, "sha256").hex()

    def read_one(self) -> Message:
        """Wait for the next message. Raises `OSError`; `BackendError` if it is invalid."""
        while b"\n" not in self._buffer:
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionResetError("it ended")
            self._buffer += data
            if len(self._buffer) > LONGEST:
                raise BackendError("a machine sent something that is no message")
        text, _, self._buffer = self._buffer.partition(b"\n")
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise BackendError("a machine sent something that is no message")
        return message

    def start(self, on_lost: Callable[[str], object]) -> None:
        """Start the threads that read and send heartbeats."""
        self.last_heard = time.monotonic()
        for work in (self._read, self._beat):
            threading.Thread(target=work, args=(on_lost,), name="control", daemon=True).start()

    def _read(self, on_lost: Callable[[str], object]) -> None:
        why = "it ended"
        while not self._closed.is_set():
            try:
                message = self.read_one()
            except TimeoutError:
                continue  # `_beat` reports when the silence is too long
            except (OSError, BackendError) as error:
                why = f"its connection was lost ({error})"
                break
            self.last_heard = time.monotonic()
            if "beat" in message:
                continue
            if message.get("do") == "end":
                self._closed.set()
                self._messages.put(message)
            elif self.on_message is not None:
                self.on_message(message)
            else:
                self._messages.put(message)
        self._messages.put(None)
        if not self._closed.is_set():
            on_lost(why)

    def _beat(self, on_lost: Callable[[str], object]) -> None:
        while not self._closed.wait(BEAT_S):
            try:
                self.send({"beat": 1})
            except OSError:
                return  # `_read` reports it
            quiet = time.monotonic() - self.last_heard
            if quiet > QUIET_S:
                on_lost(f"nothing was heard of it for {quiet:.0f} s")
                return

    def receive(self, timeout: float | None = None) -> Message | None:
        """The next message; None if the line has ended. Raises `TimeoutError`."""
        try:
            return self._messages.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError from None

    def close(self) -> None:
        """Close the connection without calling `on_lost`."""
        self._closed.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

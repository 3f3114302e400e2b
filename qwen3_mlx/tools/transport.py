"""What carries an MCP client's messages, and what both carriers hold to."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

Message = dict[str, Any]
LARGEST_MESSAGE = 32 * 2**20
"""Bytes of one message of a server; a larger one is dropped, and its call fails."""


class Transport(Protocol):
    """Carries messages to a server; what comes back goes to the receiver it was opened with."""

    ended: str
    """Why the server is gone; empty as long as it may answer."""

    def send(self, message: Message) -> None:
        """Send one message. Raises `ToolError` if the server is gone."""

    def close(self) -> None:
        """End the connection, and the server if it is ours."""


class Receiver(Protocol):
    """Takes what a server sends, in the transport's thread."""

    def received(self, message: Message) -> None:
        """One message."""

    def lost(self, why: str) -> None:
        """The connection is over, or what came through it was dropped: all calls fail."""


Open = Callable[[Receiver], Transport]


def parsed(line: bytes | str) -> list[Message]:
    """The messages in a line of JSON; none if it is no JSON-RPC, which servers print at times."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return []
    several = found if isinstance(found, list) else [found]
    return [one for one in several if isinstance(one, dict) and one.get("jsonrpc") == "2.0"]

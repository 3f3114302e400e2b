"""The interface between an MCP client and its two transports, `stdio` and `http`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

from qwen3_mlx.errors import ToolError
from qwen3_mlx.tools.surrogates import whole_json

Message = dict[str, Any]
LARGEST_MESSAGE = 32 * 2**20
"""The most bytes of a server's message; a larger one is dropped, and its call fails (over stdio,
all waiting calls)."""

OUR_OWN: Any = object()
"""The ``data`` of an error that a transport made in the place of an answer that never came."""


SESSION_OVER: Any = object()
"""The same of one whose session the server has ended, as when it was started again."""


class SessionOver(ToolError):
    """The server knows the session no more; a new one may be begun."""

    mark = SESSION_OVER


class Transport(Protocol):
    """Sends messages to a server, and passes its messages to the `Receiver` given at opening."""

    ended: str
    """Why the server has ended; empty while it may still answer."""

    def send(self, message: Message) -> None:
        """Send one message. Raises `ToolError` if the server has ended."""

    def close(self) -> None:
        """Close the connection, and end the server if it is a child process."""


class Receiver(Protocol):
    """Receives a server's messages; called in the transport's threads."""

    def received(self, message: Message) -> None:
        """Handle one message of the server."""

    def lost(self, why: str) -> None:
        """Fail all waiting calls: the connection has ended, or a message was dropped."""


Open = Callable[[Receiver], Transport]


def parsed(line: bytes | str) -> list[Message]:
    """The JSON-RPC messages in a line; empty for other text, which some servers print.

    U+FFFD stands for each lone surrogate, wherever it is: a result, an error, a tool's schema.
    """
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return []
    found = whole_json(found)
    several = found if isinstance(found, list) else [found]
    return [one for one in several if isinstance(one, dict) and one.get("jsonrpc") == "2.0"]

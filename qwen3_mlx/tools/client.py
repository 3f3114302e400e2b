"""A client of one MCP server: lists its tools and calls them.

JSON-RPC 2.0 as in https://modelcontextprotocol.io/specification/2025-11-25. Of a server's
requests, ping is answered; sampling, elicitation and roots are refused.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as NotInTime
from typing import Any

from qwen3_mlx.errors import Qwen3Error, ToolError, shown
from qwen3_mlx.text.tools import normalise_tools
from qwen3_mlx.tools.tool import Cancel, Result
from qwen3_mlx.tools.transport import OUR_OWN, SESSION_OVER, Message, Open, SessionOver

VERSION = "2025-11-25"
KNOWN_VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
START_SECONDS, LIST_SECONDS = 30.0, 30.0
MOST_TOOLS, MOST_PAGES = 512, 100
_NAME = re.compile(r"[\w./:-]{1,128}")
"""Valid names of tools: the specification's, and a few more characters that servers use."""
_HINTS = {
    "readOnlyHint": "read-only",
    "destructiveHint": "destructive",
    "openWorldHint": "open world",
}


_NO_SUCH_METHOD = -32601


class _NotOffered(ToolError):
    """The server knows no such method."""


class McpClient:
    """The connection to one server; `call` may be used from several threads."""

    def __init__(self, name: str, connect: Open, on_change: Callable[[], object]) -> None:
        """Connect and agree on a protocol version. Raises `ToolError`.

        `on_change` is called when the server announces that its tools have changed.
        """
        self.name, self._on_change = name, on_change
        self.title, self.instructions = name, ""
        self.remarks: list[str] = []
        """The tools left out of `list_tools`, and why."""
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[Message]] = {}
        self._lock, self._beginning = threading.Lock(), threading.Lock()
        self._sessions = 0
        self._transport = connect(self)
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    @property
    def ended(self) -> str:
        """Why the server has ended; empty while it may still answer."""
        return self._transport.ended

    def _begin(self) -> None:
        from qwen3_mlx import __version__

        info = {"name": "qwen3-mlx", "version": __version__}
        asked = {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": info}
        found = self._ask_once("initialize", asked, START_SECONDS)
        version = found.get("protocolVersion")
        if version not in KNOWN_VERSIONS:
            raise ToolError(
                f"the server {self.name} speaks another version of MCP",
                got=version,
                expected=", ".join(KNOWN_VERSIONS),
            )
        if hasattr(self._transport, "version"):
            self._transport.version = version
        self._sessions += 1
        offers = found.get("capabilities")
        self._offers = sorted(map(str, offers)) if isinstance(offers, dict) else []
        server = found.get("serverInfo")
        if isinstance(server, dict) and isinstance(server.get("name"), str):
            self.title = server["name"]
        self._tell("notifications/initialized", {})

    # ---- called by the transport

    def received(self, message: Message) -> None:
        """Match a response with its request; answer a server's request; note changed tools."""
        method, number = message.get("method"), message.get("id")
        if isinstance(method, str):
            if number is not None:
                self._answer(method, number)
            elif method == "notifications/tools/list_changed":
                self._on_change()
            return
        with self._lock:
            waiting = self._waiting.pop(number, None) if isinstance(number, int) else None
        if waiting is not None:
            with contextlib.suppress(InvalidStateError):  # the call has just been cancelled
                waiting.set_result(message)

    def lost(self, why: str) -> None:
        """Fail all waiting requests with `ToolError`, giving the reason `why`."""
        with self._lock:
            waiting, self._waiting = list(self._waiting.values()), {}
        for one in waiting:
            with contextlib.suppress(InvalidStateError):
                one.set_exception(ToolError(f"the server {self.name} gave no answer", got=why))

    # ---- requests

    def _answer(self, method: str, number: Any) -> None:
        """Answer a server's request: ping with a result, anything else with an error."""
        reply: Message = {"jsonrpc": "2.0", "id": number}
        if method == "ping":
            reply["result"] = {}
        else:
            reply["error"] = {"code": _NO_SUCH_METHOD, "message": f"{method} is not offered"}
        with contextlib.suppress(ToolError, AttributeError):  # ended, or not yet open
            self._transport.send(reply)

    def _tell(self, method: str, params: Mapping[str, Any]) -> None:
        self._transport.send({"jsonrpc": "2.0", "method": method, "params": dict(params)})

    def _ask(
        self, method: str, params: Mapping[str, Any], seconds: float, cancel: Cancel | None = None
    ) -> Message:
        """As `_ask_once`; in a new session where the server has ended the one there was."""
        session = self._sessions
        try:
            return self._ask_once(method, params, seconds, cancel)
        except SessionOver:
            with self._beginning:  # other calls may have found out too
                if session == self._sessions:
                    self._begin()
                    self._on_change()
            return self._ask_once(method, params, seconds, cancel)

    def _ask_once(
        self, method: str, params: Mapping[str, Any], seconds: float, cancel: Cancel | None = None
    ) -> Message:
        """The result of a request. Raises `ToolError` (refused, ended, cancelled, timed out)."""
        number, answer = next(self._numbers), Future[Message]()
        with self._lock:
            self._waiting[number] = answer
        if cancel is not None:
            cancel.then(answer.cancel)
        what = f"the server {self.name}"
        try:
            request = {"jsonrpc": "2.0", "id": number, "method": method, "params": dict(params)}
            self._transport.send(request)
            message = answer.result(seconds)
        except NotInTime:
            self._give_up(number, "timeout")
            raise ToolError(f"{what} gave no answer", got=f"{seconds:g} s of silence") from None
        except BaseException as error:
            if answer.cancelled():
                self._give_up(number, "the user asked for it")
                raise ToolError(f"{what}: the call was cancelled") from None
            raise error
        finally:
            with self._lock:
                self._waiting.pop(number, None)
        return self._result(message, what)

    def _result(self, message: Message, what: str) -> Message:
        error = message.get("error")
        if error is not None:
            said = error.get("message") if isinstance(error, dict) else error
            if isinstance(error, dict) and error.get("data") is OUR_OWN:
                hint = "is an MCP server running at this address?"
                raise ToolError(f"{what} gave no answer", got=said, hint=hint)
            if isinstance(error, dict) and error.get("data") is SESSION_OVER:
                raise SessionOver(f"{what} gave no answer", got=said)
            if isinstance(error, dict) and error.get("code") == _NO_SUCH_METHOD:
                raise _NotOffered(f"{what} says", got=said)
            raise ToolError(f"{what} says", got=said if isinstance(said, str) else json.dumps(said))
        result = message.get("result")
        if not isinstance(result, dict):
            raise ToolError(f"{what} gave no result", got=json.dumps(result)[:200])
        return result

    def _give_up(self, number: int, reason: str) -> None:
        with contextlib.suppress(ToolError):
            self._tell("notifications/cancelled", {"requestId": number, "reason": reason})

    # ---- tools

    def list_tools(self) -> list[dict[str, Any]]:
        """The server's tools: ``name``, ``description``, ``inputSchema``, ``hints``.

        Tools with an invalid name or schema, or that run only as tasks, are left out, each with a
        remark. Raises `ToolError`.
        """
        found: dict[str, dict[str, Any]] = {}
        self.remarks = []
        cursor: Any = None
        for _ in range(MOST_PAGES):
            try:
                page = self._ask("tools/list", {"cursor": cursor} if cursor else {}, LIST_SECONDS)
            except _NotOffered:
                if "tools" in self._offers:
                    raise
                has = f", but {', '.join(self._offers)}" if self._offers else ""
                self.remarks.append(f"{self.name} has no tools{has}")
                return []
            listed = page.get("tools")
            for tool in listed if isinstance(listed, list) else []:
                one = self._checked(tool)
                if one is not None:
                    found[one["name"]] = one
            cursor, before = page.get("nextCursor"), cursor
            if len(found) > MOST_TOOLS:
                self.remarks.append(
                    f"{self.name} has more than {MOST_TOOLS} tools; the rest is out"
                )
                return list(found.values())[:MOST_TOOLS]
            if not cursor or cursor == before:
                break
        return list(found.values())

    def _checked(self, tool: Any) -> dict[str, Any] | None:
        name = tool.get("name") if isinstance(tool, dict) else None
        schema = tool.get("inputSchema") if isinstance(tool, dict) else None
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            self.remarks.append(f"{self.name}: a tool is left out: its name is {shown(name)}")
            return None
        offer = {"name": name, "parameters": {"type": "object"} if schema is None else schema}
        try:
            normalise_tools([offer])
        except Qwen3Error as error:
            self.remarks.append(f"{self.name}: a tool is left out: {error.summary}")
            return None
        execution = tool.get("execution")
        if isinstance(execution, dict) and execution.get("taskSupport") == "required":
            self.remarks.append(f"{self.name}: {name} is left out: it runs as a task only")
            return None
        description, notes = tool.get("description"), tool.get("annotations")
        notes = notes if isinstance(notes, dict) else {}
        return {
            "name": name,
            "description": description if isinstance(description, str) else "",
            "inputSchema": offer["parameters"],
            "hints": tuple(text for key, text in _HINTS.items() if notes.get(key) is True),
        }

    def call(self, tool: str, arguments: dict[str, Any], cancel: Cancel, seconds: float) -> Result:
        """Call a tool; an error becomes a failed `Result`."""
        try:
            params = {"name": tool, "arguments": arguments}
            found = self._ask("tools/call", params, seconds, cancel)
            return Result(_text(found), failed=found.get("isError") is True)
        except ToolError as error:
            return Result(error.summary, failed=True)
        except RecursionError:
            return Result(f"the server {self.name} answers in too many levels", failed=True)

    def close(self) -> None:
        """Close the connection, end the server if it is a child process, fail all waiting calls."""
        self._transport.close()
        self.lost("it was closed")


def _text(result: Message) -> str:
    """A result's content as text; parts that aren't text are named in brackets."""
    content = result.get("content")
    parts = [_part(one) for one in content] if isinstance(content, list) else []
    if not parts and result.get("structuredContent") is not None:
        parts = [json.dumps(result["structuredContent"], ensure_ascii=False)]
    return "\n".join(parts)


def _part(part: Any) -> str:
    if not isinstance(part, dict):
        return "[no content]"
    kind = part.get("type")
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    resource = part.get("resource")
    if kind == "resource" and isinstance(resource, dict):
        text = resource.get("text")
        return text if isinstance(text, str) else f"[{resource.get('uri')}: no text]"
    if kind == "resource_link":
        return f"[{part.get('name') or 'resource'}: {part.get('uri')}]"
    return f"[{kind}: {part.get('mimeType', 'no text')}]"

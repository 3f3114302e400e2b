"""Tool servers in the full-screen chat: they start in a thread, which asks for consent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from qwen3_mlx.cli.tools.chat_tools import ChatTools
from qwen3_mlx.cli.tools.commands import server_state
from qwen3_mlx.cli.tui.consent_dialog import CallDialog, ServerDialog
from qwen3_mlx.cli.tui.view import View
from qwen3_mlx.events import ToolCall
from qwen3_mlx.tools.consent import Decision, No
from qwen3_mlx.tools.server_file import ServerConfig
from qwen3_mlx.tools.tool import Tool

T = TypeVar("T")


class Asking:
    """Starts the servers of `tools`, and asks the user about them and their calls."""

    def __init__(self, view: View, tools: ChatTools, on_change: Callable[[], object]) -> None:
        """on_change: called in the interface's thread whenever `starting` has changed."""
        self._view, self._tools, self._on_change = view, tools, on_change
        self._lock, self._open = threading.Lock(), list[tuple[Future[Any], Any]]()
        self._closed = False
        self.starting = ""
        """Which server is starting or stopping, for the status row; "" if none is."""
        tools.ask, tools.ask_server = self._ask_call, self._ask_server

    def start(self, name: str | None = None) -> None:
        """Start all servers in a thread, or restart the server `name`."""
        self._say(f"starting {name or 'the tool servers'}")
        self._in_thread(lambda: self._started(name), daemon=True)

    def stop(self, name: str) -> None:
        """Stop a server in a thread that the program waits for at exit."""
        self._say(f"stopping {name}")
        self._in_thread(lambda: [self._tools.stop(name)], daemon=False)

    def _started(self, name: str | None) -> list[str]:
        """Start all servers or `name`; returns notes to show."""
        if name is None:
            self._tools.start_all(lambda one: self._later(self._say, f"starting {one}"))
            return self._tools.remarks()
        self._tools.start(name)
        return [server_state(self._tools, self._tools.config(name))]

    def _in_thread(self, work: Callable[[], list[str]], *, daemon: bool) -> None:
        """Run `work` in a thread and show the notes it returns."""
        run = threading.Thread(target=self._do, args=(work,), name="tool servers", daemon=daemon)
        run.start()

    def _do(self, work: Callable[[], list[str]]) -> None:
        try:
            for note in work():
                self._later(self._view.note, note)
        except Exception as error:  # a bug must not end the conversation
            self._later(self._view.fail, error)
        finally:
            self._later(self._say, "")

    def _say(self, text: str) -> None:
        self.starting = text
        self._on_change()

    def _later(self, act: Callable[..., object], *args: Any) -> None:
        if not self._closed:
            self._view.call_later(act, *args)

    def _ask_server(self, config: ServerConfig) -> bool:
        return self._answer(lambda put: self._view.ask(ServerDialog(config), put), False)

    def _ask_call(self, call: ToolCall, tool: Tool) -> Decision:
        def show(put: Callable[[Decision], None]) -> None:
            self._view.ask(CallDialog(call, tool), put)

        refused: Decision = No()
        return self._answer(show, refused)

    def _answer(self, show: Callable[[Callable[[T], None]], object], otherwise: T) -> T:
        """Ask by `show` and wait for the answer; `otherwise` if the chat ends first."""
        answer = Future[T]()
        with self._lock:
            if self._closed:
                return otherwise
            self._open.append((answer, otherwise))
        self._view.call_later(
            show, lambda found: _put(answer, otherwise if found is None else found)
        )
        return answer.result()

    def close(self) -> None:
        """Answer all open questions with no, and stop the servers."""
        with self._lock:
            self._closed, left = True, self._open
        for answer, otherwise in left:
            _put(answer, otherwise)
        self._tools.close()


def _put(answer: Future[T], found: T) -> None:
    if not answer.done():
        answer.set_result(found)

"""The line-based chat's questions: may a server start, may a call run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from qwen3_mlx.cli.chat.line_input import Reader
from qwen3_mlx.cli.terminal.screen import Screen
from qwen3_mlx.cli.tools import shown
from qwen3_mlx.events import ToolCall
from qwen3_mlx.tools.consent import Always, Decision, No, Once
from qwen3_mlx.tools.server_file import ServerConfig
from qwen3_mlx.tools.tool import Tool

ASK_CALL = "run it? y once, a always in this chat, n [REASON] no, e edit > "
ASK_SERVER = "start it? y yes, n no > "
NO_ANSWER = "that is none of the answers"


class LineQuestions:
    """Asks the user on stderr and reads the answers from a `Reader`."""

    def __init__(self, reader: Reader, screen: Screen) -> None:
        self._reader, self._screen = reader, screen

    def server(self, config: ServerConfig) -> bool:
        """Whether a server may start; Ctrl-C and Ctrl-D mean no."""
        self._screen.note(f"the server {config.name}:")
        self._screen.lines(f"  {line}" for line in shown.server_lines(config))
        while True:
            try:
                answer = self._reader.ask(ASK_SERVER).strip().lower()
            except (KeyboardInterrupt, EOFError):
                return False
            if answer in ("y", "yes", "n", "no"):
                return answer.startswith("y")
            self._screen.note(NO_ANSWER)

    def call(
        self, call: ToolCall, tool: Tool, show: Callable[[ToolCall, Tool], object]
    ) -> Decision:
        """The user's decision about a call, which `show` displays.

        Raises `KeyboardInterrupt` and `EOFError` as the reader does.
        """
        show(call, tool)
        edited: dict[str, Any] | None = None
        while True:
            answer = self._reader.ask(ASK_CALL).strip()
            word, _, reason = answer.partition(" ")
            match word.lower():
                case "y" | "yes" if not reason:
                    return Once(edited)
                case "a" | "always" if not reason and edited is None:
                    return Always()
                case "n" | "no":
                    return No(reason.strip())
                case "e" | "edit" if not reason:
                    edited = self._edited(call.arguments if edited is None else edited)
                    show(replace(call, arguments=edited), tool)
                case _:
                    self._screen.note(NO_ANSWER)

    def _edited(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments after the user edits them as JSON; asks again until they are an object."""
        draft = json.dumps(arguments, ensure_ascii=False)
        while True:
            draft = self._reader.ask("arguments > ", draft)
            try:
                return read_arguments(draft)
            except ValueError as error:
                self._screen.note(str(error))


def read_arguments(text: str) -> dict[str, Any]:
    """Parse arguments in JSON. Raises `ValueError` with a message for the user."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError("the arguments are an object: {…}")
    return found

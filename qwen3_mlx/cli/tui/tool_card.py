"""The widget of a tool call: its arguments and its result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from textual.widgets import Static

from qwen3_mlx.cli.tools import shown
from qwen3_mlx.events import ToolCall
from qwen3_mlx.tools.events import ToolResult
from qwen3_mlx.tools.result_text import tells_failure
from qwen3_mlx.tools.tool import Tool

ARGUMENT_LINES = 20
"""Lines of arguments that are shown; the consent dialog has shown all of them."""


class ToolCard(Static):
    """A running or finished call."""

    DEFAULT_CSS = "ToolCard { width: 1fr; padding: 0 1; margin: 0 0 1 0; text-style: dim; }"

    def __init__(self, title: str, arguments: dict[str, Any], result: ToolResult | None) -> None:
        lines = shown.argument_lines(arguments)
        more = len(lines) - ARGUMENT_LINES
        lines = [*lines[:ARGUMENT_LINES], *([f"… {more:,} more lines"] if more > 0 else [])]
        self._text = "\n".join([f"▸ {title}", *(f"  {line}" for line in lines)])
        super().__init__(self._with(result), markup=False)

    @classmethod
    def of(cls, call: ToolCall, tool: Tool | None, result: ToolResult | None = None) -> ToolCard:
        """The card of a call; it is running unless there is a `result`."""
        title = shown.title(tool) if tool is not None else shown.visible(call.name)
        return cls(title, call.arguments, result)

    @classmethod
    def past(cls, message: Mapping[str, Any], calls: Mapping[str, Mapping[str, Any]]) -> ToolCard:
        """The card of a saved result; `calls` are the earlier calls by their ids."""
        function = calls.get(str(message.get("tool_call_id")), {})
        name = str(function.get("name") or message.get("name") or "tool")
        arguments = function.get("arguments")
        if isinstance(arguments, str):  # OpenAI's format has them as JSON text
            arguments = {"arguments": arguments}
        content = message.get("content")
        text = content if isinstance(content, str) else json.dumps(content, default=str)
        call = ToolCall(name, dict(arguments or {}))
        return cls.of(call, None, ToolResult(call, text, tells_failure(text)))

    def _with(self, result: ToolResult | None) -> str:
        lines = ["…"] if result is None else shown.result_lines(result)
        return "\n".join([self._text, *(f"  {line}" for line in lines)])

    def end(self, result: ToolResult) -> None:
        """Show the result."""
        self.update(self._with(result))

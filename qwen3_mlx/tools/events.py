"""The events that the tool loop adds to the model's own. Needs no MLX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from qwen3_mlx.events import Event, ToolCall
from qwen3_mlx.tools.tool import Tool

Ending = Literal["answered", "length", "interrupted", "steps", "repeated"]


@dataclass(frozen=True, slots=True)
class ToolRun:
    """An allowed call is about to run, with the arguments in `call`."""

    call: ToolCall
    tool: Tool


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The text that the model reads as a call's result, also if the call did not run."""

    call: ToolCall
    text: str
    failed: bool = False
    tool: Tool | None = None
    """The tool called; None if no tool has that name."""
    seconds: float = 0.0

    def as_message(self) -> dict[str, Any]:
        """The result as a message for the model."""
        call = self.call
        return {
            "role": "tool",
            "name": call.name,
            "tool_call_id": call.id,
            "content": self.text,
        }


@dataclass(frozen=True, slots=True)
class LoopDone:
    """The last event of a user turn: why it ended, and how often the model was run."""

    ending: Ending
    steps: int


LoopEvent = Event | ToolRun | ToolResult | LoopDone

"""What a turn with tools says besides the model's own events. Needs no MLX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qwen3_mlx.events import Event, ToolCall
from qwen3_mlx.tools.tool import Tool

Ending = Literal["answered", "length", "interrupted", "steps", "repeated"]


@dataclass(frozen=True, slots=True)
class ToolRun:
    """A call is about to run: it was allowed, with these arguments."""

    call: ToolCall
    tool: Tool


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call gave, ran or not, as the model reads it."""

    call: ToolCall
    text: str
    failed: bool = False
    tool: Tool | None = None
    """None: there is no tool of that name."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class LoopDone:
    """The user turn is over."""

    ending: Ending
    steps: int


LoopEvent = Event | ToolRun | ToolResult | LoopDone

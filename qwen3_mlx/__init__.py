"""Qwen3 on your own machine, with the thinking under your control.

>>> from qwen3_mlx import load
>>> model = load("demo")
>>> reply = model.generate("What is 17 * 23?", thinking_budget=256)
>>> reply.answer
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qwen3_mlx.errors import Qwen3Error
from qwen3_mlx.events import Answer, Done, Reply, Stats, Thinking, ToolCall
from qwen3_mlx.options import GenerationOptions

if TYPE_CHECKING:
    from qwen3_mlx.chat.session import ChatSession
    from qwen3_mlx.config import Qwen3Config
    from qwen3_mlx.model import Qwen3, load
    from qwen3_mlx.tools.agent import Agent

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "Answer",
    "ChatSession",
    "Done",
    "GenerationOptions",
    "Qwen3",
    "Qwen3Config",
    "Qwen3Error",
    "Reply",
    "Stats",
    "Thinking",
    "ToolCall",
    "load",
]

# Imported on first use: these modules import MLX, and `import qwen3_mlx` stays fast without it.
_LAZY = {
    "Agent": "qwen3_mlx.tools.agent",
    "ChatSession": "qwen3_mlx.chat.session",
    "Qwen3": "qwen3_mlx.model",
    "Qwen3Config": "qwen3_mlx.config.network",
    "load": "qwen3_mlx.model",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

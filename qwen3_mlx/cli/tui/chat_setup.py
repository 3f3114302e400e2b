"""The settings and functions that configure a full-screen chat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qwen3_mlx.cli.chat.conversation import Conversation
from qwen3_mlx.cli.chat.try_kernels import TryKernels
from qwen3_mlx.cli.settings import folders
from qwen3_mlx.cli.settings.settings import ShowThinking
from qwen3_mlx.cli.tools.chat_tools import ChatTools
from qwen3_mlx.hub import resolve
from qwen3_mlx.options import GenerationOptions

if TYPE_CHECKING:
    from qwen3_mlx.model import Qwen3

Load = Callable[[str, Callable[[int, int], None]], "Qwen3"]


@dataclass(frozen=True)
class ChatSetup:
    """Configures a full-screen chat. `load` loads a model and reports (bytes loaded, total)."""

    name: str
    load: Load
    options: GenerationOptions
    try_kernels: TryKernels = lambda model, say, skipped: ""
    """Tries a loaded model's kernels in the worker; returns a note."""
    find: Callable[[str], object] = resolve.find_local
    """Finds a model on this machine; None if it must be downloaded."""
    fetch: Callable[[str], object] = resolve.resolve
    """Downloads a model and draws its progress on stderr."""
    prepare: Callable[[Conversation], list[str]] = lambda chat: []
    """Attaches a new conversation to its file, or resumes one; returns notes to show."""
    tools: ChatTools | None = None
    """The tool servers to start."""
    system: str | None = None
    show_thinking: ShowThinking = "live"
    note: str = ""
    history: Path | None = None
    theme: str = "auto"
    """One of `settings.THEMES`."""
    typed_ahead: str = ""
    """Text typed before the chat could read it; every line but the last ended in Enter."""
    remember: Callable[[str], object] = folders.remember_model
    """Stores the model's name for the next chat."""

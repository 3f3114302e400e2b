"""The types of a slash command and its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qwen3_mlx.cli.chat.conversation import Conversation


@dataclass(frozen=True, slots=True)
class CommandResult:
    """A command's text to show, and the interface's next step."""

    text: str = ""
    retry: bool = False
    quit: bool = False
    changed: bool = False
    """Whether the messages have changed and must be shown again."""
    edit: str | None = None
    """A message for the user to edit and send again."""
    send: str | None = None
    """A message to send at once."""
    model: str | None = None
    """The model to switch to."""
    start_server: str | None = None
    """The tool server to start or restart."""
    stop_server: str | None = None
    """The tool server to stop, which may take seconds."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command's usage, its help, and its function."""

    usage: str
    help: str
    run: Callable[[Conversation, str], CommandResult]

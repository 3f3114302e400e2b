"""What a slash command is, and what it leads to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qwen3_mlx.cli.chat.conversation import Conversation


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command did: something to say, and what the interface is to do next."""

    text: str = ""
    retry: bool = False
    quit: bool = False
    changed: bool = False
    """The messages are other ones now: show them anew."""
    edit: str | None = None
    """A message for the person to change and send again."""
    send: str | None = None
    """A message to send at once."""
    model: str | None = None
    """The model to switch to."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command: how it is written, what it does, and the function that does it."""

    usage: str
    help: str
    run: Callable[[Conversation, str], CommandResult]

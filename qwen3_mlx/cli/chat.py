"""Starting a chat: the model, the session, and the interface to talk through."""

from __future__ import annotations

import contextlib
from pathlib import Path

from qwen3_mlx.cli import loading, resuming, state, stdin
from qwen3_mlx.cli.conversation import Conversation
from qwen3_mlx.cli.plain import LineChat
from qwen3_mlx.cli.screen import Screen
from qwen3_mlx.options import GenerationOptions


def run(
    model: str | None,
    options: GenerationOptions,
    *,
    system: str | None,
    context: int | None,
    hide_thinking: bool,
    debug: bool,
    resume: str | None = None,
    system_file: Path | None = None,
) -> int:
    """Chat until the user leaves; returns the exit code."""
    screen = Screen()
    system = stdin.text_of(system_file) if system_file else system and stdin.argument(system)
    resumed = resuming.find(resume) if resume else None
    name = model or (resumed.model if resumed else loading.default_model())
    if model is None and name == "demo" and resumed is None:
        screen.note(loading.DEMO_NOTE)
    loaded = loading.open_model(name, context, screen)
    state.remember_model(name)
    chat = Conversation(loaded, loaded.session(system, options))
    screen.notes(resuming.attach(chat, resumed))
    # The only interface so far. A full-screen one will stand here unless --plain is given or
    # a stream is no terminal; it runs the same Conversation and commands.
    with contextlib.closing(chat):
        return LineChat(chat, screen, hide_thinking=hide_thinking, debug=debug).run()

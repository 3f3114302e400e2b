"""Starting a chat: the model, the session, and the interface to talk through."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3_mlx.cli.chat import load
from qwen3_mlx.cli.chat.try_kernels import try_kernels
from qwen3_mlx.cli.settings import folders, settings
from qwen3_mlx.cli.settings.settings import ShowThinking
from qwen3_mlx.cli.terminal import stdin
from qwen3_mlx.cli.terminal.screen import Screen
from qwen3_mlx.hub import resolve
from qwen3_mlx.options import AS_COMPUTED, CacheFormat, GenerationOptions

if TYPE_CHECKING:
    from qwen3_mlx.cli.chat.conversation import Conversation
    from qwen3_mlx.model import Qwen3


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """The options of a chat, from the command line and the settings."""

    model: str | None
    options: GenerationOptions
    system: str | None
    context: int | None
    show_thinking: ShowThinking
    plain: bool
    debug: bool
    resume: str | None = None
    system_file: Path | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Options that hold where `options` say nothing and the model can have them."""
    theme: str = "auto"
    cache_format: CacheFormat = AS_COMPUTED
    save: bool = True
    adapter: Path | None = None
    """A LoRA adapter for the model that the chat begins with."""


Prepare = Callable[["Conversation"], list[str]]
"""Attaches a new conversation to its file, or resumes one; returns notes to show."""


def run(request: ChatRequest) -> int:
    """Chat until the user leaves; returns the exit code."""
    from qwen3_mlx.cli.chat import resume as resuming

    screen = Screen()
    file, system = request.system_file, request.system
    system = stdin.text_of(file) if file else system and stdin.argument(system)
    resumed = resuming.find(request.resume) if request.resume else None
    name, note = request.model or (resumed.model if resumed else ""), ""
    if resumed is None:
        name, note = load.choose(request.model)
    context = request.context or load.default_context(name, screen)
    request = replace(request, system=system, context=context)

    def prepare(chat: Conversation) -> list[str]:
        session = chat.session
        session.options = settings.apply_defaults(
            session.options, request.defaults, chat.model.family
        )
        yarn = load.yarn_note(chat.model)
        return [*([yarn] if yarn else []), *resuming.attach(chat, resumed, save=request.save)]

    if not request.plain and screen.can_fill_terminal:
        return _full_screen(request, name, note, prepare)
    if note:
        screen.note(note)
    return _by_lines(request, name, screen, prepare)


def _by_lines(request: ChatRequest, name: str, screen: Screen, prepare: Prepare) -> int:
    """The chat in lines, for pipes and terminals that can't do more."""
    from qwen3_mlx.cli.chat.conversation import Conversation
    from qwen3_mlx.cli.chat.line_chat import LineChat

    loaded = load.open_model(name, request.context, screen, request.cache_format, request.adapter)
    if screen.is_watched and (said := try_kernels(loaded, screen.note)):
        screen.note(said)
    if request.save:
        folders.remember_model(name)
    chat = Conversation(loaded, loaded.session(request.system, request.options))
    screen.notes(prepare(chat))
    with contextlib.closing(chat):
        return LineChat(
            chat,
            screen,
            hide_thinking=request.show_thinking == "never",
            debug=request.debug,
            context=request.context,
            cache_format=request.cache_format,
            adapter=request.adapter,
            save=request.save,
        ).run()


def _full_screen(request: ChatRequest, name: str, note: str, prepare: Prepare) -> int:
    """Run the full-screen chat; a download comes first, because it draws its own progress."""
    load.check_chats(name)
    if resolve.find_local(name) is None:
        resolve.resolve(name)
    from qwen3_mlx.cli.tui.app import Chat
    from qwen3_mlx.cli.tui.chat_setup import ChatSetup
    from qwen3_mlx.cli.tui.typed_ahead import typed_ahead

    context, cache_format = request.context, request.cache_format

    def load_one(other: str, progress: Callable[[int, int], None]) -> Qwen3:
        adapter = request.adapter if other == name else None
        return load.load_model(other, context, progress, cache_format, adapter)

    setup = ChatSetup(
        name=name,
        load=load_one,
        try_kernels=partial(try_kernels, key="Esc"),
        options=request.options,
        prepare=prepare,
        system=request.system,
        show_thinking=request.show_thinking,
        note=note,
        history=folders.history_file() if request.save else None,
        remember=folders.remember_model if request.save else lambda name: None,
        theme=request.theme,
    )
    with typed_ahead() as typed:
        app = Chat(replace(setup, typed_ahead=typed))
        code = app.run() or 0
    if request.debug:
        for error in app.errors:
            Screen().trace(error)
    return code

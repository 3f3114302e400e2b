"""Starting a chat: the model, the session, and the interface to talk through."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3_mlx.cli.chat import load
from qwen3_mlx.cli.options import ShowThinking
from qwen3_mlx.cli.settings import folders, settings
from qwen3_mlx.cli.terminal import stdin
from qwen3_mlx.cli.terminal.screen import Screen
from qwen3_mlx.hub import names
from qwen3_mlx.options import AS_COMPUTED, CacheFormat, GenerationOptions

if TYPE_CHECKING:
    from qwen3_mlx.cli.chat.conversation import Conversation


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line and the settings ask of a chat."""

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


Prepare = Callable[["Conversation"], list[str]]
"""Makes a new conversation ready; returns what there is to say."""


def run(wanted: Wanted) -> int:
    """Chat until the user leaves; returns the exit code."""
    from qwen3_mlx.cli.chat import resume as resuming
    from qwen3_mlx.cli.terminal.capable import capable

    screen = Screen()
    file, system = wanted.system_file, wanted.system
    system = stdin.text_of(file) if file else system and stdin.argument(system)
    resumed = resuming.find(wanted.resume) if wanted.resume else None
    name, note = wanted.model or (resumed.model if resumed else ""), ""
    if resumed is None:
        name, note = load.choose(wanted.model)
    context = wanted.context or load.default_context(name, screen)
    wanted = replace(wanted, system=system, context=context)

    def prepare(chat: Conversation) -> list[str]:
        session = chat.session
        session.options = settings.apply_defaults(
            session.options, wanted.defaults, chat.model.family
        )
        yarn = load.yarn_note(chat.model)
        return [*([yarn] if yarn else []), *resuming.attach(chat, resumed, save=wanted.save)]

    if not wanted.plain and capable(screen):
        return _full_screen(wanted, name, note, prepare)
    if note:
        screen.note(note)
    return _by_lines(wanted, name, screen, prepare)


def _by_lines(wanted: Wanted, name: str, screen: Screen, prepare: Prepare) -> int:
    """The chat in lines, for pipes and terminals that can't do more."""
    from qwen3_mlx.cli.chat.conversation import Conversation
    from qwen3_mlx.cli.chat.line_chat import LineChat

    loaded = load.open_model(name, wanted.context, screen, wanted.cache_format)
    if wanted.save:
        folders.remember_model(name)
    chat = Conversation(loaded, loaded.session(wanted.system, wanted.options))
    screen.notes(prepare(chat))
    with contextlib.closing(chat):
        return LineChat(
            chat,
            screen,
            hide_thinking=wanted.show_thinking is ShowThinking.never,
            debug=wanted.debug,
            context=wanted.context,
            cache_format=wanted.cache_format,
            save=wanted.save,
        ).run()


def _full_screen(wanted: Wanted, name: str, note: str, prepare: Prepare) -> int:
    """The chat that fills the terminal; what must be downloaded is downloaded before it begins."""
    if names.find_local(name) is None:
        names.resolve(name)
    from qwen3_mlx.cli.tui.app import Chat
    from qwen3_mlx.cli.tui.chat_setup import ChatSetup

    context, kept = wanted.context, wanted.cache_format
    start = ChatSetup(
        name=name,
        load=lambda other, progress: load.load_model(other, context, progress, kept),
        options=wanted.options,
        prepare=prepare,
        system=wanted.system,
        show_thinking=wanted.show_thinking.value,
        note=note,
        history=folders.history_file() if wanted.save else None,
        remember=folders.remember_model if wanted.save else lambda name: None,
        theme=wanted.theme,
    )
    app = Chat(start)
    code = app.run() or 0
    if wanted.debug:
        for error in app.errors:
            traceback.print_exception(error)
    return code

"""Starting a chat: the model, the session, and the interface to talk through."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from qwen3_mlx import hub
from qwen3_mlx.cli import loading, settings, state, stdin
from qwen3_mlx.cli.options import ShowThinking
from qwen3_mlx.cli.screen import Screen
from qwen3_mlx.options import AS_COMPUTED, GenerationOptions, KeyValues

if TYPE_CHECKING:
    from qwen3_mlx.cli.conversation import Conversation


def run(
    model: str | None,
    options: GenerationOptions,
    *,
    system: str | None,
    context: int | None,
    show_thinking: ShowThinking,
    plain: bool,
    debug: bool,
    resume: str | None = None,
    system_file: Path | None = None,
    defaults: Mapping[str, Any] = MappingProxyType({}),
    theme: str = "auto",
    kept: KeyValues = AS_COMPUTED,
    save: bool = True,
) -> int:
    """Chat until the user leaves; returns the exit code.

    `defaults` are options that hold where `options` say nothing and the model can have them.
    """
    from qwen3_mlx.cli import resuming
    from qwen3_mlx.cli.terminal import capable

    screen = Screen()
    system = stdin.text_of(system_file) if system_file else system and stdin.argument(system)
    resumed = resuming.find(resume) if resume else None
    name, note = (model or resumed.model, "") if resumed else loading.choose(model)
    context = context or loading.default_context(name, screen)

    def prepare(chat: Conversation) -> list[str]:
        session = chat.session
        session.options = settings.beneath(session.options, defaults, chat.model.family)
        yarn = loading.yarn_note(chat.model)
        return [*([yarn] if yarn else []), *resuming.attach(chat, resumed, save=save)]

    if not plain and capable(screen):
        return _full_screen(
            name,
            options,
            system=system,
            context=context,
            show_thinking=show_thinking,
            note=note,
            prepare=prepare,
            theme=theme,
            kept=kept,
            debug=debug,
            save=save,
        )
    if note:
        screen.note(note)
    loaded = loading.open_model(name, context, screen, kept)
    if save:
        state.remember_model(name)
    from qwen3_mlx.cli.conversation import Conversation
    from qwen3_mlx.cli.plain import LineChat

    chat = Conversation(loaded, loaded.session(system, options))
    screen.notes(prepare(chat))
    hide = show_thinking is ShowThinking.never
    with contextlib.closing(chat):
        return LineChat(
            chat,
            screen,
            hide_thinking=hide,
            debug=debug,
            context=context,
            kept=kept,
            save=save,
        ).run()


def _full_screen(
    name: str,
    options: GenerationOptions,
    *,
    system: str | None,
    context: int | None,
    show_thinking: ShowThinking,
    note: str,
    prepare: Callable[[Conversation], list[str]],
    theme: str,
    kept: KeyValues,
    debug: bool,
    save: bool,
) -> int:
    """The chat that fills the terminal; what must be downloaded is downloaded before it begins."""
    if hub.find_local(name) is None:
        hub.resolve(name)
    from qwen3_mlx.cli.tui.app import Chat, Start

    start = Start(
        name=name,
        load=lambda wanted, progress: loading.load_model(wanted, context, progress, kept),
        options=options,
        prepare=prepare,
        system=system,
        show_thinking=show_thinking.value,
        note=note,
        history=state.history_file() if save else None,
        remember=state.remember_model if save else lambda name: None,
        theme=theme,
    )
    app = Chat(start)
    code = app.run() or 0
    if debug:
        for error in app.errors:
            traceback.print_exception(error)
    return code

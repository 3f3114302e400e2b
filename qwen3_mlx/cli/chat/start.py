"""Starts a chat: chooses the model, prepares the session and runs an interface."""

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
from qwen3_mlx.cli.terminal.screen import Screen, trust_terminal_size
from qwen3_mlx.errors import ModelNotFoundError
from qwen3_mlx.hub import resolve
from qwen3_mlx.options import AS_COMPUTED, CacheFormat, GenerationOptions

if TYPE_CHECKING:
    from qwen3_mlx.chat.journal import SavedChat
    from qwen3_mlx.cli.chat.conversation import Conversation
    from qwen3_mlx.cli.tools.chat_tools import ChatTools
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
    """Defaults for `options`, as far as the model supports them."""
    theme: str = "auto"
    cache_format: CacheFormat = AS_COMPUTED
    save: bool = True
    adapter: Path | None = None
    """A LoRA adapter for the chat's first model."""
    draft: str | None = None
    """The source of drafts for every model of the chat."""
    mcp: Path | None = None
    """The file that lists tool servers."""
    allow: tuple[str, ...] = ()
    """Patterns of tools that run without asking the user."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The model with which a chat begins."""

    name: str
    note: str = ""
    """A note to show: that it is the demo by default."""
    is_last: bool = False
    """Whether it was chosen only as the last chat's model; if it is gone, the demo replaces it."""


Prepare = Callable[["Conversation"], list[str]]
"""Attaches a new conversation to its file, or resumes one; returns notes to show."""


def run(request: ChatRequest) -> int:
    """Chat until the user leaves; returns the exit code."""
    from qwen3_mlx.cli.chat import resume as resuming

    trust_terminal_size()
    screen = Screen()
    file, system = request.system_file, request.system
    system = stdin.text_of(file) if file else system and stdin.argument(system)
    load.check_drafts(request.draft)  # first, so that the error names the draft model
    tools = _tools(request)
    resumed = resuming.find(request.resume) if request.resume else None
    chosen = _choose(request.model, resumed)
    context = request.context
    if context is None:
        context = load.default_context(chosen.name, screen)
    request = replace(request, system=system, context=context)

    def prepare(chat: Conversation) -> list[str]:
        session = chat.session
        chat.tools = tools
        session.options = settings.apply_defaults(
            session.options, request.defaults, chat.model.family
        )
        yarn = load.yarn_note(chat.model)
        return [*([yarn] if yarn else []), *resuming.attach(chat, resumed, save=request.save)]

    try:
        if not request.plain and screen.can_fill_terminal:
            return _full_screen(request, chosen, prepare, tools)
        if chosen.note:
            screen.note(chosen.note)
        return _by_lines(request, chosen, screen, prepare)
    except ModelNotFoundError as error:
        if resumed is None or request.model:
            raise
        hint = f"go on with another model: qwen3-mlx chat MODEL --resume {resumed.id}"
        what = f"the conversation's model: {error.what}"
        raise ModelNotFoundError(what, got=error.got, hint=hint) from None


def _choose(model: str | None, resumed: SavedChat | None) -> Chosen:
    """The model of the command line, else of the resumed conversation, else of `load.choose`."""
    if model or resumed is None:
        name, note = load.choose(model)
        return Chosen(name, note, load.is_last(model, name))
    return Chosen(resumed.model)


def _tools(request: ChatRequest) -> ChatTools | None:
    """The tool servers of ``--mcp``, not started yet. Raises `OptionError`."""
    if request.mcp is None:
        return None
    from qwen3_mlx.cli.tools.chat_tools import ChatTools

    logs = folders.home() / "mcp-logs" if request.save else None
    return ChatTools(request.mcp, request.allow, logs)


def _by_lines(request: ChatRequest, chosen: Chosen, screen: Screen, prepare: Prepare) -> int:
    """Run the line-based chat, for pipes and simple terminals; returns the exit code."""
    from qwen3_mlx.cli.chat.conversation import Conversation
    from qwen3_mlx.cli.chat.line_chat import LineChat

    given = (request.cache_format, request.adapter, request.draft)
    parts = (chosen.name, request.context, screen, *given)
    if chosen.is_last:
        name, loaded = load.open_or_demo(*parts)
    else:
        name, loaded = chosen.name, load.open_model(*parts)
    if screen.is_watched and (outcome := try_kernels(loaded, screen.note)):
        screen.note(outcome)
    if request.save and name == chosen.name and not chosen.note:
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
            draft=request.draft,
            save=request.save,
        ).run()


def _full_screen(
    request: ChatRequest, chosen: Chosen, prepare: Prepare, tools: ChatTools | None
) -> int:
    """Run the full-screen chat; returns the exit code.

    A download comes first because it draws its own progress.
    """
    wanted, chosen = chosen, _fetched(chosen)
    name = chosen.name
    from qwen3_mlx.cli.terminal.typed_ahead import typed_ahead
    from qwen3_mlx.cli.tui.app import Chat
    from qwen3_mlx.cli.tui.chat_setup import ChatSetup

    context = request.context if chosen is wanted else None
    cache_format = request.cache_format
    notes: list[str] = []

    def load_one(other: str, progress: Callable[[int, int], None]) -> Qwen3:
        adapter = request.adapter if other == name else None
        try:
            return load.load_model(other, context, progress, cache_format, adapter, request.draft)
        except load.GONE as error:
            if not chosen.is_last or other != name or adapter is not None:
                raise
            notes.append(load.stand_in_note(name, error))
        return load.load_model(load.DEMO, None, progress, cache_format)

    def remember(other: str) -> None:
        if request.save and not (chosen.note and other == name):
            folders.remember_model(other)

    setup = ChatSetup(
        name=name,
        load=load_one,
        try_kernels=partial(try_kernels, key="Esc"),
        options=request.options,
        prepare=lambda chat: [*notes, *prepare(chat)],
        tools=tools,
        system=request.system,
        show_thinking=request.show_thinking,
        note=chosen.note,
        history=folders.history_file() if request.save else None,
        remember=remember,
        theme=request.theme,
    )
    with typed_ahead() as typed:
        app = Chat(replace(setup, typed_ahead=typed))
        code = app.run() or 0
    if request.debug:
        for error in app.errors:
            Screen().trace(error)
    return code


def _fetched(chosen: Chosen) -> Chosen:
    """`chosen`, downloaded if necessary; the demo if it is the last chat's model and gone."""
    try:
        load.check_chats(chosen.name)
        if resolve.find_local(chosen.name) is None:
            resolve.resolve(chosen.name)
    except load.GONE as error:
        if not chosen.is_last:
            raise
        return Chosen(load.DEMO, load.stand_in_note(chosen.name, error))
    return chosen

"""``qwen3-mlx chat``: a chat with a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from qwen3_mlx.cli import command as commands
from qwen3_mlx.cli import options as opt
from qwen3_mlx.cli.settings import settings, suggestions


class Command(commands.Command):
    """A command whose ``--resume`` takes an optional id, which click can't declare."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse `args` after completing a bare ``--resume``."""
        from qwen3_mlx.cli.chat.resume import with_last

        return super().parse_args(ctx, with_last(args))


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """The options that only `chat` has."""

    resume: Annotated[
        str | None,
        opt.option(
            "[ID]",
            "Go on with the last conversation, or with ID (see: qwen3-mlx sessions list).",
            opt.RUN,
            autocompletion=suggestions.conversations,
        ),
    ] = None
    no_save: Annotated[
        bool,
        opt.flag(
            "--no-save",
            "Write nothing to the disk: no conversation, no history, no computed prompt.",
            opt.RUN,
        ),
    ] = False
    show_thinking: Annotated[
        settings.ShowThinking | None,
        opt.option(
            "WHEN",
            "Show it always, live (folded away when the answer starts), or never (default: live).",
            opt.THINKING,
        ),
    ] = None
    hide_reasoning: opt.HideThinking = False
    system_file: Annotated[
        Path | None,
        opt.option(
            "FILE",
            "The system prompt from a file; once computed it is kept on disk for the next chat.",
            opt.RUN,
        ),
    ] = None
    plain: Annotated[
        bool | None,
        opt.flag(
            "--plain/--no-plain",
            "Chat line by line, not on the full screen.",
            opt.RUN,
            show_default=False,
        ),
    ] = None


@opt.with_options
def command(
    turn: opt.TurnOptions,
    chat: ChatOptions,
    servers: opt.ToolOptions,
    model: opt.Model = None,
    debug: opt.Debug = False,
) -> None:
    """Talk with a model, its thinking dim and its answer as Markdown.

    On the full screen of a terminal, else (and with `--plain`) by lines. `/help` lists commands
    and keys. Ctrl-C while it thinks means "answer now", while it answers "stop". Piped input is
    one message a line, and then stdout has the answers alone.

    Examples:

        qwen3-mlx chat
        qwen3-mlx chat 8b --budget 1024
        qwen3-mlx chat coder-30b --system "You write short Python."
        qwen3-mlx chat --resume
        qwen3-mlx chat 8b --mcp mcp.json
    """
    servers.check()
    if turn.system is not None and chat.system_file is not None:
        raise typer.BadParameter("give --system or --system-file, not both")
    from qwen3_mlx.cli.chat.start import ChatRequest, run

    options, found = turn.options(), settings.load()
    system = turn.system
    if system is None and not chat.resume and chat.system_file is None:
        system = found.get("system")
    shown: settings.ShowThinking = chat.show_thinking or found.get("show_thinking") or "live"
    request = ChatRequest(
        model,
        options,
        system=system,
        context=turn.context,
        show_thinking="never" if chat.hide_reasoning else shown,
        plain=bool(found.get("plain")) if chat.plain is None else chat.plain,
        debug=debug,
        resume=chat.resume,
        system_file=chat.system_file,
        # a resumed conversation keeps its options; only flags change them
        defaults={} if chat.resume else found.options(),
        theme=found.get("theme") or "auto",
        cache_format=turn.cache_format(),
        adapter=turn.adapter,
        draft=turn.draft,
        save=not chat.no_save,
        mcp=servers.mcp,
        allow=tuple(servers.allow or ()),
    )
    raise typer.Exit(run(request))

"""``qwen3-mlx sessions``: lists, shows, exports and removes saved conversations."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from qwen3_mlx.cli import options as opt
from qwen3_mlx.cli.settings import folders, suggestions
from qwen3_mlx.cli.terminal.screen import Screen, printable

if TYPE_CHECKING:
    from qwen3_mlx.chat import journal

app = typer.Typer(rich_markup_mode="markdown", no_args_is_help=True)

Id = Annotated[
    str | None,
    typer.Argument(
        metavar="ID",
        help="The conversation, or how its id begins; without one the last.",
        autocompletion=suggestions.conversations,
    ),
]


@app.callback()
def command() -> None:
    """List, show, export and remove kept conversations.

    Every chat is kept as it grows, on this machine only: `qwen3-mlx chat --resume` goes on.

    Examples:

        qwen3-mlx sessions list
        qwen3-mlx sessions export md > talk.md
    """


def _named(id: str) -> str:
    """`id`. Raises `OptionError` if it is blank: every conversation's id begins with nothing."""
    if not id.strip():
        from qwen3_mlx.errors import OptionError

        hint = "qwen3-mlx sessions list shows what is there"
        raise OptionError("which conversation?", got=repr(id), expected="an id", hint=hint)
    return id


def _read(id: str | None) -> journal.SavedChat:
    from qwen3_mlx.chat import kept_chats

    id = None if id is None else _named(id)
    saved = kept_chats.named(folders.sessions(), id)
    Screen().notes(filter(None, [saved.passed_over, saved.damage]))
    return saved


@app.command(name="list")
def list_all(debug: opt.Debug = False) -> None:
    """List the kept conversations, the last one first.

    Examples:

        qwen3-mlx sessions list
    """
    from qwen3_mlx.chat import journal, journal_files
    from qwen3_mlx.errors import SessionError

    screen = Screen()
    for path in journal_files.all_in(folders.sessions()):
        try:
            saved = journal.read(path)
        except SessionError as error:
            screen.note(str(error))
            continue
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
        # Printable in a pipe too, which ends up on a terminal.
        title = printable(saved.title)[:50] if saved.turns else "(empty)"
        turns = f"{saved.turns:3} turn{' ' if saved.turns == 1 else 's'}"
        screen.answer(f"{saved.id}  {when}  {turns}  {saved.model}  {title}\n")


@app.command()
def show(id: Id = None, debug: opt.Debug = False) -> None:
    """Show a conversation as Markdown.

    Examples:

        qwen3-mlx sessions show
    """
    from qwen3_mlx.chat.export import as_markdown

    Screen().answer(as_markdown(_read(id)))


@app.command()
def export(
    format: Annotated[
        Literal["md", "json"],
        typer.Argument(metavar="FORMAT", help="`md` to read, `json` for `/load` and Python."),
    ],
    id: Id = None,
    debug: opt.Debug = False,
) -> None:
    """Write a conversation to stdout, as Markdown or as the JSON that `/load` reads.

    Examples:

        qwen3-mlx sessions export json 2026-01-31 > talk.json
    """
    from qwen3_mlx.chat.export import as_json, as_markdown

    saved = _read(id)
    screen = Screen()
    if format == "md":
        screen.answer(as_markdown(saved))
    else:
        screen.json(as_json(saved))


@app.command()
def rm(
    ids: Annotated[
        list[str],
        typer.Argument(
            metavar="ID...",
            help="Conversations, or how their ids begin.",
            autocompletion=suggestions.conversations,
        ),
    ],
    debug: opt.Debug = False,
) -> None:
    """Remove conversations for good.

    Examples:

        qwen3-mlx sessions rm 2026-01-31-101500-1f2e
    """
    from qwen3_mlx.chat import journal_files

    # Every id must be found before anything is removed; two may name one conversation.
    paths = [journal_files.find(folders.sessions(), _named(id)) for id in ids]
    for path in dict.fromkeys(paths):
        journal_files.remove(path)
        Screen().note(f"removed: {path.stem}")

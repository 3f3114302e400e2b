"""``chat --resume``: continues a saved conversation."""

from __future__ import annotations

import contextlib
import re
from itertools import zip_longest
from pathlib import Path

from qwen3_mlx.chat import journal, journal_files, kept_chats
from qwen3_mlx.chat.plain import explicit
from qwen3_mlx.cli.chat.conversation import Conversation
from qwen3_mlx.cli.settings import folders
from qwen3_mlx.cli.terminal.render import counted
from qwen3_mlx.errors import ModelNotFoundError, SessionError
from qwen3_mlx.options import GenerationOptions

LAST = "last"
UNKEPT = "this chat is not kept; /save PATH writes it to a file"
_ID = re.compile(r"last|\d{4}[\d-]*[0-9a-f]*")


def with_last(arguments: list[str]) -> list[str]:
    """The arguments with "last" inserted after a ``--resume`` without an id.

    The next argument counts as an id only if it looks like one: in ``--resume 8b`` it is a model.
    ``--resume=`` has none either: a script's variable was empty.
    """
    given = []
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        given.append("--resume" if argument == "--resume=" else argument)
        if argument == "--resume=" or (argument == "--resume" and not is_id(following)):
            given.append(LAST)
    return given


def is_id(word: str) -> bool:
    """Whether `word` looks like a conversation's id, or the beginning of one, such as ``2026``.

    A folder named by digits alone is a model.
    """
    return _ID.fullmatch(word) is not None and not (word.isdecimal() and Path(word).is_dir())


def no_id(error: ModelNotFoundError) -> ModelNotFoundError:
    """`error` about the word behind ``--resume``, which is a model unless it looks like an id."""
    hint = (
        f"{error.hint}; a conversation's id is like 2026-01-31-101500-1f2e, or how it begins"
        " (qwen3-mlx sessions list)"
    )
    return ModelNotFoundError(error.what, got=error.got, expected=error.expected, hint=hint)


def find(id: str) -> journal.SavedChat:
    """The saved conversation named by an id, a prefix of one, or ``last``.

    Raises `SessionError`.
    """
    return kept_chats.named(folders.sessions(), None if id == LAST else id)


def attach(
    chat: Conversation, resumed: journal.SavedChat | None, *, save: bool = True
) -> list[str]:
    """Attach a journal to `chat` after loading `resumed` into it; returns notes to show.

    Without `save` nothing is written: neither the conversation nor its prompt cache.
    """
    folder = folders.sessions()
    if resumed is None:
        if not save:
            return [UNKEPT]
        chat.journal = journal.ChatJournal(journal_files.new_path(folder))
        # A long system prompt is prefilled while the user types the first message.
        return list(filter(None, [chat.take_up()])) if chat.session.messages else []
    own_journal, passed_over = None, resumed.passed_over
    if save:  # another chat may have changed the file while the model was loading
        with contextlib.suppress(SessionError):  # the file was removed; `resumed` is in memory
            resumed, own_journal = journal.take(resumed.path)
    session = chat.session
    system = session.system
    session.messages = [dict(message) for message in resumed.messages]
    session.system = system or session.system
    session.options = GenerationOptions(**(resumed.options | explicit(session.options)))
    notes = [f"{resumed.id}: {counted(resumed.turns, 'turn')}, {resumed.title[:60]!r}"]
    notes[:0] = filter(None, [passed_over, resumed.damage])
    if not save:
        return [*notes, UNKEPT, *filter(None, [chat.take_up()])]
    chat.journal = own_journal or journal.ChatJournal(journal_files.new_path(folder))
    if own_journal is None:
        why = "is left as it is" if not resumed.can_append else "is open in another chat"
        notes.append(f"{resumed.path.name} {why}; this one goes on as {chat.journal.path.stem}")
    return [*notes, *filter(None, [chat.take_up()])]

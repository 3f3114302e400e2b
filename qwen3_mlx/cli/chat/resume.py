"""Going on with a kept conversation: ``chat --resume``."""

from __future__ import annotations

import contextlib
import re
from itertools import zip_longest

from qwen3_mlx.chat import journal, journal_files
from qwen3_mlx.chat.plain import explicit
from qwen3_mlx.cli.chat.conversation import Conversation
from qwen3_mlx.cli.settings import folders
from qwen3_mlx.errors import SessionError
from qwen3_mlx.options import GenerationOptions

LAST = "last"
UNKEPT = "this chat is not kept; /save PATH writes it to a file"
_ID = re.compile(r"last|\d{4}-[\d-]*[0-9a-f]*")


def with_last(arguments: list[str]) -> list[str]:
    """The arguments with the id that a bare ``--resume`` means put in.

    What follows is the id only if it looks like one, so that ``--resume 8b`` names a model.
    """
    given = []
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        given.append(argument)
        if argument == "--resume" and not _ID.fullmatch(following):
            given.append(LAST)
    return given


def find(id: str) -> journal.SavedChat:
    """The kept conversation that `id`, its beginning, or ``last`` names. Raises `SessionError`."""
    return journal.read(journal_files.find(folders.sessions(), None if id == LAST else id))


def attach(
    chat: Conversation, resumed: journal.SavedChat | None, *, save: bool = True
) -> list[str]:
    """Have `chat` kept as it grows, after taking up `resumed`; returns notes to show.

    Without `save` nothing is written, neither the conversation nor what is computed for it.
    """
    folder = folders.sessions()
    if resumed is None:
        if not save:
            return [UNKEPT]
        chat.journal = journal.ChatJournal(journal_files.new_path(folder))
        # a system prompt may be long, and is computed while the first message is typed
        return list(filter(None, [chat.take_up()])) if chat.session.messages else []
    kept = None
    if save:  # what was read before the model loaded may have grown meanwhile
        with contextlib.suppress(SessionError):  # removed: this chat has it still
            resumed, kept = journal.take(resumed.path)
    session = chat.session
    system = session.system
    session.messages = [dict(message) for message in resumed.messages]
    session.system = system or session.system
    session.options = GenerationOptions(**(resumed.options | explicit(session.options)))
    notes = [f"{resumed.id}: {resumed.turns} turns, {resumed.title[:60]!r}"]
    if resumed.damage:
        notes.insert(0, resumed.damage)
    if not save:
        return [*notes, UNKEPT, *filter(None, [chat.take_up()])]
    chat.journal = kept or journal.ChatJournal(journal_files.new_path(folder))
    if kept is None:
        why = "is left as it is" if not resumed.can_append else "is open in another chat"
        notes.append(f"{resumed.path.name} {why}; this one goes on as {chat.journal.path.stem}")
    return [*notes, *filter(None, [chat.take_up()])]

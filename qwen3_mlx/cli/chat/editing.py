"""The commands that change, export or count messages: /undo, /edit, /drop, /export, /tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwen3_mlx.chat import export as export_file
from qwen3_mlx.cli.chat.conversation import Conversation
from qwen3_mlx.cli.chat.result import CommandResult
from qwen3_mlx.cli.terminal.render import counted
from qwen3_mlx.errors import OptionError, SessionError, shown
from qwen3_mlx.files import expanded, write_atomically
from qwen3_mlx.text.messages import joined_text


def undo(chat: Conversation, _text: str) -> CommandResult:
    """Remove the last turn."""
    message = _take_back(chat)
    return CommandResult(f"taken back: {_short(message)}", changed=True)


def edit(chat: Conversation, text: str) -> CommandResult:
    """Remove the last turn, and send `text` instead or return its message to be edited."""
    message = _take_back(chat)
    if text:
        return CommandResult(changed=True, send=text)
    return CommandResult(changed=True, edit=message)


def drop(chat: Conversation, text: str) -> CommandResult:
    """Remove the oldest turns to make room in the context. Raises `OptionError`."""
    if text and not (text.isdecimal() and len(text) < 10 and int(text)):
        raise OptionError("/drop", got=shown(text), expected="a number of turns, 1 or more")
    count = int(text or 1)
    messages = chat.session.messages
    starts = _starts(messages)
    if not starts:
        raise OptionError("nothing to drop", hint="say something first")
    first = starts[0]
    rest = messages[starts[count] :] if count < len(starts) else []
    chat.session.messages = [*messages[:first], *rest]
    dropped = min(count, len(starts))
    return CommandResult(
        f"dropped: the oldest {dropped} of {counted(len(starts), 'turn')}", changed=True
    )


def export(chat: Conversation, text: str) -> CommandResult:
    """Write the conversation as Markdown or JSON. Raises `OptionError`, `SessionError`."""
    kind, _, name = text.partition(" ")
    if "-" in (kind, name.strip()):
        printed = f"`qwen3-mlx sessions export {'json' if kind == 'json' else 'md'}` prints it"
        raise OptionError("/export", got="-", expected="a path", hint=printed)
    if kind not in ("", "md", "json"):
        kind, name = Path(text).suffix.removeprefix("."), text
    if kind not in ("", "md", "json") or (name == text and text and not kind and "/" not in text):
        expected = "md or json, and perhaps a path"
        hint = f"for a file of that name: /export md {text}" if not kind else None
        raise OptionError("/export", got=shown(text), expected=expected, hint=hint)
    if not _starts(chat.session.messages):
        raise SessionError("nothing to export yet", hint="say something first")
    kind = kind or "md"
    default = time.strftime(f"chat-%Y-%m-%d-%H%M%S.{kind}")
    path = expanded(name.strip(" '\"") or default)
    if path.is_dir():
        hint = f"name a file in it: /export {kind} {path / default}"
        raise SessionError("this is a directory", got=str(path), hint=hint)
    if path.exists():
        raise SessionError("this file exists already", got=str(path), hint="choose another name")
    write = export_file.as_json if kind == "json" else export_file.as_markdown
    try:
        write_atomically(path, write(chat.as_saved()).encode("utf-8", "replace"))
    except OSError as error:
        raise SessionError(
            f"{path} can't be written",
            got=error.strerror or str(error),
            hint="nothing is lost; name another place",
        ) from None
    return CommandResult(f"exported: {path}")


def tokens(chat: Conversation, _text: str) -> CommandResult:
    """Report how much of the context the conversation uses."""
    chat.used = used = chat.prompt_tokens()  # the status row's own is a turn's counts, summed
    context = chat.context
    lines = [f"the conversation: {used:,} tokens"]
    if context:
        share, left = 100 * used // context, max(context - used, 0)
        lines[0] += f" of {context:,} ({share} %), {left:,} left"
    total = chat.total
    lines.append(
        f"this chat generated {total.thinking_tokens:,} thinking and"
        f" {total.answer_tokens:,} answer tokens; thoughts don't stay in the context"
    )
    return CommandResult("\n".join(lines))


def model(chat: Conversation, text: str) -> CommandResult:
    """Switch to another model, or show the current one."""
    if not text:
        return CommandResult(f"model: {chat.model.name}")
    return CommandResult(model=text.strip("'\""))


def _take_back(chat: Conversation) -> str:
    """Remove the last turn; returns its message."""
    messages = chat.session.messages
    starts = _starts(messages)
    if not starts:
        raise OptionError("there is no turn to take back", hint="say something first")
    chat.session.messages = messages[: starts[-1]]
    return joined_text(messages[starts[-1]].get("content"))


def _starts(messages: Sequence[dict[str, Any]]) -> list[int]:
    """The indices of the user messages, where turns begin."""
    return [n for n, message in enumerate(messages) if message["role"] == "user"]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}…"

"""Conversations on disk: a file each, a line of JSON for every change.

A line says how many messages stay and which follow them, so a turn, a retry, an edit and a
cleared conversation are the same kind of line, and no line is ever rewritten. Every line is on
disk before the next turn begins, so a crash can damage only the last line. `/save` and
`ChatSession.save` write the same format as one line. `read` also accepts an exported conversation,
a single JSON object; earlier versions saved in that form.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwen3_mlx.chat.journal_files import new_path
from qwen3_mlx.chat.plain import Messages, are_messages, are_options, as_plain, explicit
from qwen3_mlx.errors import SessionError
from qwen3_mlx.files import locked, read_small, write_atomically
from qwen3_mlx.options import GenerationOptions
from qwen3_mlx.text.messages import joined_text

LARGEST = 2**29
"""Largest file that is read, in bytes; a million tokens take about 5 MB."""
FORMAT, VERSION = "qwen3-mlx chat", 1
EXPORT_FORMAT, EXPORT_VERSION = "qwen3-mlx session", 1
OTHERS = "`qwen3-mlx sessions list` shows the conversations that are kept"


@dataclass
class SavedChat:
    """A conversation read from its file, up to the first damaged line."""

    path: Path
    model: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)
    damage: str = ""
    """What is wrong with the file, as a sentence; empty if it is intact."""
    can_append: bool = True
    """Whether a journal may append to this file: at most its last line is incomplete."""
    valid_bytes: int = 0
    """Bytes up to the end of the last valid line."""
    size: int = 0
    """Bytes of the whole file."""
    passed_over: str = ""
    """Which newer files `kept_chats.latest` couldn't read, as sentences, one a line."""

    @property
    def id(self) -> str:
        """The name by which `chat --resume` finds the conversation."""
        return self.path.stem

    @property
    def title(self) -> str:
        """The first line of the first user message."""
        questions = (joined_text(m.get("content")) for m in self.messages if m["role"] == "user")
        return next(questions, "").strip().partition("\n")[0]

    @property
    def turns(self) -> int:
        """The number of user messages."""
        return sum(message["role"] == "user" for message in self.messages)


def read(path: Path) -> SavedChat:
    """Read a journal up to its first damage, or a whole exported conversation.

    Raises `SessionError` if the file can't be read or holds neither.
    """
    try:
        data = read_small(path, LARGEST)
    except OSError as error:
        got = error.strerror or str(error)
        raise SessionError(f"{path} can't be read", got=got, hint=OTHERS) from None
    saved, number = SavedChat(path, size=len(data)), 0
    lines = data.splitlines(keepends=True)
    for number, line in enumerate(lines):  # `number` is used after the loop
        if not _apply(saved, line, first=number == 0):
            break
        saved.valid_bytes += len(line)
    if not saved.valid_bytes:
        return _read_export(path, data)
    unread = lines[number:] if saved.valid_bytes < len(data) else []
    if unread:
        saved.can_append = len(unread) == 1 and not unread[0].endswith(b"\n")
        saved.damage = (
            f"{path.name}: the last change was not written whole, and is left out"
            if saved.can_append
            else f"{path.name} is damaged at line {number + 1}; {len(unread)} lines are left out"
        )
    return saved


def _apply(saved: SavedChat, line: bytes, *, first: bool) -> bool:
    """Apply one line of a journal; returns whether it was valid."""
    change = _parsed(line) if line.endswith(b"\n") else None
    if not isinstance(change, dict):
        return False
    if first:
        return change.get("format") == FORMAT and change.get("version") == VERSION
    keep, add = change.get("keep"), change.get("add")
    options, model = change.get("options"), change.get("model")
    if type(keep) is not int or not 0 <= keep <= len(saved.messages) or not are_messages(add):
        return False
    if not isinstance(model, str) or not are_options(options):
        return False
    saved.messages[keep:] = add or []
    saved.model, saved.options = model, options or {}
    return True


def _read_export(path: Path, data: bytes) -> SavedChat:
    """Parse a conversation exported as one JSON object. Raises `SessionError`."""
    record = _parsed(data)
    if not isinstance(record, dict) or record.get("format") != EXPORT_FORMAT:
        expected = f"format {FORMAT!r} or {EXPORT_FORMAT!r}"
        got = "another JSON object" if isinstance(record, dict) else "no JSON object"
        raise SessionError(
            f"{path} is no kept conversation",
            got=got if data.strip() else "an empty file",
            expected=expected,
            hint=OTHERS,
        )
    if record.get("version") != EXPORT_VERSION:
        got, hint = repr(record.get("version")), "update qwen3-mlx"
        raise SessionError(f"{path}: version", got=got, expected=EXPORT_VERSION, hint=hint)
    model, options = record.get("model"), record.get("options", {})
    messages: Any = record.get("messages")
    if not isinstance(model, str) or not are_messages(messages) or not are_options(options):
        got, expected = "another content", "model, options and messages"
        raise SessionError(f"{path} is damaged", got=got, expected=expected, hint=OTHERS)
    return SavedChat(path, model, options, messages, can_append=False)


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None


class ChatJournal:
    """The file of an open conversation, created when its first user message is written."""

    def __init__(self, path: Path, saved: SavedChat | None = None) -> None:
        """Write to `path`: a new file, or append after the valid lines of `saved`."""
        self.path = path
        self._file: int | None = None
        self._end = saved.valid_bytes if saved else 0
        self._size = saved.size if saved else 0
        self._written: list[dict[str, Any]] = list(saved.messages) if saved else []
        self._model, self._options = (saved.model, saved.options) if saved else ("", {})

    def keep(self, model: str, options: GenerationOptions, messages: Messages) -> None:
        """Append what has changed since the last call, and flush it to disk (fsync).

        Raises `SessionError`; the file is then unchanged, and the next call tries again.
        """
        plain, chosen = as_plain(messages), explicit(options)
        unchanged = (plain, model, chosen) == (self._written, self._model, self._options)
        if unchanged or not (self._end or any(m.get("role") == "user" for m in plain)):
            return
        try:
            self._open_or_move()
            same = _common_length(self._written, plain)
            self._append(_change(same, plain[same:], model, chosen))
        except OSError as error:
            got = error.strerror or str(error)
            hint = "it is still in memory: /save PATH writes it; --no-save keeps no chat at all"
            what = f"the conversation can't be kept in {self.path}"
            raise SessionError(what, got=got, hint=hint) from None
        self._written, self._model, self._options = plain, model, chosen

    def _append(self, change: dict[str, Any]) -> None:
        file = self._open()
        data = _lines(change) if self._end else _lines(_header(), change)
        try:
            self._size = self._end
            os.ftruncate(file, self._end)  # drops an incomplete line left by a crash
            written = 0
            while written < len(data):
                written += os.pwrite(file, data[written:], self._end + written)
            os.fsync(file)
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(file, self._end)
            raise
        self._end = self._size = self._end + len(data)

    def _open(self) -> int:
        """The file's descriptor, locked against other processes."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = locked(self.path, create=not self._end)
            if os.fstat(file).st_size != self._size:
                os.close(file)
                raise FileExistsError(f"{self.path.name} has changed")
            self._file = file
        return self._file

    def _open_or_move(self) -> int:
        """As `_open`; if another chat owns the file, a new file for the whole conversation."""
        try:
            return self._open()
        except (BlockingIOError, FileExistsError, FileNotFoundError):
            self.path = new_path(self.path.parent)
            self._written, self._end, self._size = [], 0, 0
            return self._open()

    def claim(self) -> bool:
        """Lock the file for this process; False if another one holds or has changed it."""
        try:
            self._open()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the file, which releases its lock."""
        if self._file is not None:
            if not os.fstat(self._file).st_size:  # nothing could be written: no conversation
                with contextlib.suppress(OSError):
                    self.path.unlink()
            os.close(self._file)
            self._file = None


def _common_length(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> int:
    """The length of the longest common prefix."""
    pairs = enumerate(zip(old, new, strict=False))
    return next((i for i, (one, other) in pairs if one != other), min(len(old), len(new)))


def take(path: Path) -> tuple[SavedChat, ChatJournal | None]:
    """Lock the conversation at `path` for this process, then read it.

    The journal is None if another chat holds the file or it can't be appended to.
    Raises `SessionError` as `read` does.
    """
    try:
        file = locked(path)
    except OSError:
        return read(path), None
    try:
        saved = read(path)
    except BaseException:
        os.close(file)
        raise
    if not saved.can_append:
        os.close(file)
        return saved, None
    journal = ChatJournal(path, saved)
    journal._file = file
    return saved, journal


def _header() -> dict[str, Any]:
    return {"format": FORMAT, "version": VERSION, "created": _now()}


def _change(
    keep: int, add: list[dict[str, Any]], model: str, options: dict[str, Any]
) -> dict[str, Any]:
    return {"keep": keep, "add": add, "model": model, "options": options, "at": _now()}


def _lines(*records: dict[str, Any]) -> bytes:
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return text.encode("utf-8", "surrogatepass")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def save(path: Path, model: str, options: GenerationOptions, messages: Messages) -> None:
    """Write a whole conversation to `path` atomically.

    Raises `SessionError`, also if another chat holds `path`; the file is then unchanged.
    """
    data = _lines(_header(), _change(0, as_plain(messages), model, explicit(options)))
    try:
        with contextlib.ExitStack() as stack:
            if path.is_file():  # replacing the file also drops its lock
                stack.callback(os.close, locked(path))
            write_atomically(path, data)
    except BlockingIOError:
        hint = "it is still in memory; save it to another place"
        raise SessionError(f"{path} is open in another chat", hint=hint) from None
    except OSError as error:
        raise SessionError(
            f"the conversation can't be saved to {path}",
            got=error.strerror or str(error),
            hint="it is still in memory; save it to another place",
        ) from None

"""Conversations on disk, kept as they grow: a file each, a line of JSON for every change.

A change says how many messages stay and which come behind them, so that a turn, a retry, an edit
and a cleared conversation are the same kind of line and nothing is ever rewritten. Every line is
on the disk before the next turn begins; after a crash only a half last line can be wrong.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from qwen3_mlx.errors import SessionError
from qwen3_mlx.options import GenerationOptions

FORMAT, VERSION = "qwen3-mlx chat", 1
SAVED_FORMAT, SAVED_VERSION = "qwen3-mlx session", 1


@dataclass
class SavedChat:
    """A conversation as its file has it, as far as that is good."""

    path: Path
    model: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)
    note: str = ""
    """What was wrong with the file, if anything."""
    whole: bool = True
    """Whether it may be written on: nothing was lost but a half last line."""
    good: int = 0
    """Bytes up to the end of the last good line."""

    @property
    def id(self) -> str:
        """The name it is resumed by."""
        return self.path.stem

    @property
    def title(self) -> str:
        """The first line of what was asked first."""
        asked = (m["content"] for m in self.messages if m["role"] == "user")
        return next(asked, "").strip().partition("\n")[0]

    @property
    def turns(self) -> int:
        """How often the user spoke."""
        return sum(message["role"] == "user" for message in self.messages)


def new_path(folder: Path) -> Path:
    """Where a new conversation will be kept; its name is the time, and what makes it unique."""
    return folder / f"{time.strftime('%Y-%m-%d-%H%M%S')}-{secrets.token_hex(2)}.jsonl"


def read(path: Path) -> SavedChat:
    """What the file holds up to its first damage. Raises `SessionError` if that is nothing."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        got = error.strerror or str(error)
        raise SessionError(f"{path} can't be read", got=got) from None
    kept = SavedChat(path)
    for number, line in enumerate(lines):
        if not _take(kept, line, first=number == 0):
            break
        kept.good += len(line)
    left = lines[number:] if lines and kept.good < sum(map(len, lines)) else []
    if not kept.good:
        raise SessionError(f"{path} is no kept conversation", expected=f"format {FORMAT!r}")
    if left:
        half = len(left) == 1 and not left[0].endswith(b"\n")
        kept.whole = half
        kept.note = (
            f"{path.name}: the last change was not written whole, and is left out"
            if half
            else f"{path.name} is damaged at line {number + 1}; {len(left)} lines are left out"
        )
    return kept


def _take(kept: SavedChat, line: bytes, *, first: bool) -> bool:
    """Apply one line; whether it was good."""
    try:
        change = json.loads(line.decode("utf-8", "surrogatepass")) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return False
    if not isinstance(change, dict):
        return False
    if first:
        return change.get("format") == FORMAT and change.get("version") == VERSION
    keep, add = change.get("keep"), change.get("add")
    options, model = change.get("options"), change.get("model")
    if type(keep) is not int or not 0 <= keep <= len(kept.messages) or not are_messages(add):
        return False
    if not isinstance(model, str) or not are_options(options):
        return False
    kept.messages[keep:] = add or []
    kept.model, kept.options = model, options or {}
    return True


def are_messages(value: object) -> bool:
    """Whether this is a list of messages with a role and text."""
    return isinstance(value, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in value
    )


def are_options(value: object) -> bool:
    """Whether this is an object with names of options."""
    known = {field.name for field in fields(GenerationOptions)}
    return isinstance(value, dict) and known.issuperset(value)


def asked(options: GenerationOptions) -> dict[str, Any]:
    """The options that are not left to the model."""
    return {key: value for key, value in asdict(options).items() if value is not None}


class ChatJournal:
    """The file of one conversation under way. Made with its first message, not before."""

    def __init__(self, path: Path, kept: SavedChat | None = None) -> None:
        """Write to `path`: a new file, or go on behind what `kept` says is good."""
        self.path = path
        self._file: int | None = None
        self._end = kept.good if kept else 0
        self._written: list[dict[str, Any]] = list(kept.messages) if kept else []
        self._said: tuple[str, dict[str, Any]] = (kept.model, kept.options) if kept else ("", {})

    def keep(
        self, model: str, options: GenerationOptions, messages: Sequence[Mapping[str, Any]]
    ) -> None:
        """Write what changed since the last time, and see it on the disk.

        Raises `SessionError`; the file is then as it was, and the next call tries again.
        """
        said = (model, asked(options))
        same = 0
        for old, new in zip(self._written, messages, strict=False):
            if old != new:
                break
            same += 1
        unchanged = same == len(self._written) == len(messages) and said == self._said
        if unchanged or not (self._end or any(m["role"] == "user" for m in messages)):
            return
        add = [json.loads(json.dumps(message)) for message in messages[same:]]
        change = {"keep": same, "add": add, "model": model, "options": said[1], "at": _now()}
        try:
            self._append(change)
        except OSError as error:
            got = error.strerror or str(error)
            hint = "it is still in memory: /save PATH writes it to another place"
            raise SessionError(
                f"the conversation can't be kept in {self.path}", got=got, hint=hint
            ) from None
        self._written[same:], self._said = add, said

    def _append(self, change: dict[str, Any]) -> None:
        file = self._open()
        head = [] if self._end else [{"format": FORMAT, "version": VERSION, "created": _now()}]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in [*head, change])
        data = text.encode("utf-8", "surrogatepass")
        try:
            os.ftruncate(file, self._end)  # a half line of an earlier crash
            written = 0
            while written < len(data):
                written += os.pwrite(file, data[written:], self._end + written)
            os.fsync(file)
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(file, self._end)
            raise
        self._end += len(data)

    def _open(self) -> int:
        """The file, which no other process may write while this one does."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                raise
            self._file = file
        return self._file

    def claim(self) -> bool:
        """Take the file for this process; False if another one is writing it."""
        try:
            self._open()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def all_in(folder: Path) -> list[Path]:
    """The files of kept conversations, the one last written to first."""
    files = [(file.stat().st_mtime_ns, file) for file in folder.glob("*.jsonl")]
    return [file for _, file in sorted(files, reverse=True)]


def find(folder: Path, id: str | None) -> Path:
    """The file of the conversation `id`, or whose id begins so; the last without one.

    Raises `SessionError` if there is none, or more than one.
    """
    files = all_in(folder)
    hint = "qwen3-mlx sessions list shows what is there"
    if id is None:
        if not files:
            raise SessionError("no conversation is kept yet", hint="start one: qwen3-mlx chat")
        return files[0]
    matching = [f for f in files if f.stem == id] or [f for f in files if f.stem.startswith(id)]
    if len(matching) != 1:
        got = f"{id!r}, which {len(matching) or 'no'} conversations begin with"
        raise SessionError("which conversation?", got=got, hint=hint)
    return matching[0]


def saved(model: str, options: dict[str, Any], messages: object) -> dict[str, Any]:
    """A conversation as `ChatSession.save` writes it, whole and in one object."""
    return {
        "format": SAVED_FORMAT,
        "version": SAVED_VERSION,
        "model": model,
        "options": options,
        "messages": messages,
    }


def as_markdown(kept: SavedChat) -> str:
    """The conversation to be read: a heading a message, thoughts folded away."""
    parts = [f"# {kept.title or kept.id}\n\n{kept.model}, {kept.id}\n"]
    for message in kept.messages:
        parts.append(f"## {message['role'].capitalize()}\n")
        if thought := message.get("reasoning_content"):
            parts.append(f"<details><summary>Thinking</summary>\n\n{thought}\n\n</details>\n")
        parts.append(message["content"] + "\n")
        for call in message.get("tool_calls") or []:
            parts.append(f"```json\n{json.dumps(call, ensure_ascii=False)}\n```\n")
    return "\n".join(parts)

"""The input history of both chat interfaces, in one file.

An entry is a line ``# date`` and the message's lines, each prefixed with ``+``.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from qwen3_mlx.files import open_regular, open_to_append

READ_BYTES = 1_000_000
"""Only the last so many bytes of the file are read."""


def read(path: Path | None) -> list[str]:
    """All entries, oldest first; empty if the file can't be read."""
    if path is None:
        return []
    try:
        with open_regular(path) as file:
            file.seek(max(file.seek(0, os.SEEK_END) - READ_BYTES, 0))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return []
    entries: list[list[str]] = [[]]
    for line in lines:
        if line.startswith("+"):
            entries[-1].append(line[1:])
        elif entries[-1]:
            entries.append([])
    return ["\n".join(entry) for entry in entries if entry]


def add(path: Path | None, text: str) -> None:
    """Append an entry; errors of writing are ignored."""
    if path is None:
        return
    lines = "".join(f"+{line}\n" for line in text.split("\n"))
    try:
        with open_to_append(path) as file:
            file.write(f"\n# {datetime.now()}\n{lines}".encode("utf-8", "replace"))
    except OSError:
        pass


class History:
    """Steps through the entries, newest first, and back to the draft."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._entries = path, read(path)
        self._at, self._draft = len(self._entries), ""

    def add(self, text: str) -> None:
        """Add a sent message, unless it repeats the last one."""
        if not self._entries or self._entries[-1] != text:
            self._entries.append(text)
            add(self._path, text)
        self._at, self._draft = len(self._entries), ""

    def older(self, typed: str) -> str | None:
        """The previous entry; None at the oldest. `typed` becomes the draft."""
        if self._at == 0:
            return None
        if self._at == len(self._entries):
            self._draft = typed
        self._at -= 1
        return self._entries[self._at]

    def newer(self) -> str | None:
        """The next entry, finally the draft; None after that."""
        if self._at >= len(self._entries):
            return None
        self._at += 1
        return self._draft if self._at == len(self._entries) else self._entries[self._at]

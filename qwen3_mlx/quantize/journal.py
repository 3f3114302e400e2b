"""What a conversion has finished, a line each, so that a killed one goes on where it was.

The journal stands beside the directory that grows, begins with the conversion's key and has a line
for each shard that lies under its own name, with its digest. A line torn off by a crash is dropped;
a shard whose bytes are not those of its digest is made again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3_mlx.errors import OptionError
from qwen3_mlx.files import open_regular, read_small
from qwen3_mlx.quantize.disk import Disk


@dataclass(frozen=True)
class ConversionJournal:
    """The journal of the conversion that grows in `directory`."""

    disk: Disk
    file: Path
    directory: Path
    shards: dict[str, str]
    """sha256 by name of shard, as written down."""

    @classmethod
    def open(cls, disk: Disk, file: Path, directory: Path, key: str) -> ConversionJournal:
        """Go on with the conversion `key` in `directory`, or empty it and begin.

        Raises `OptionError` for a directory that no conversion of ours made.
        """
        if directory.exists() and not file.exists():
            hint = "move it away: the conversion grows there before it takes its own name"
            raise OptionError("a directory is in the way", got=str(directory), hint=hint)
        lines = _read(file)
        if lines and lines[0] == {"key": key}:
            # written anew, so that nothing is appended to a torn line
            kept = {line["shard"]: line["sha256"] for line in lines[1:]}
        else:
            kept = {}
            if directory.exists():
                disk.remove(directory)
        records = [{"key": key}, *({"shard": n, "sha256": d} for n, d in kept.items())]
        disk.make_directory(file.parent)
        disk.write_file(file, b"".join(map(_line, records)))
        disk.make_directory(directory)
        return cls(disk, file, directory, kept)

    def holds(self, shard: str, size: int) -> bool:
        """Whether `shard` was finished and still has the bytes it had."""
        path = self.directory / shard
        if shard not in self.shards or not path.is_file() or path.stat().st_size != size:
            return False
        return sha256(path) == self.shards[shard]

    def add(self, shard: str, digest: str) -> None:
        """Write down that `shard` is finished."""
        with self.disk.create(self.file, append=True) as stream:
            self.disk.write(stream, _line({"shard": shard, "sha256": digest}))
            self.disk.sync(stream)
        self.shards[shard] = digest


def sha256(path: Path) -> str:
    """The digest of a file."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _read(file: Path) -> list[dict[str, Any]]:
    """The whole lines; the first that isn't one ends them."""
    try:
        text = read_small(file)
    except OSError:
        return []
    found = []
    for line in text.split(b"\n")[:-1]:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(value, dict) or not (
            {"key"} <= set(value) or {"shard", "sha256"} <= set(value)
        ):
            break
        found.append(value)
    return found

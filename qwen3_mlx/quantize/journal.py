"""The journal of a conversion's finished shards, with which a killed conversion resumes.

It is beside the growing directory, and has the conversion's key on the first line and a line with
name and digest per finished shard. An incomplete line is dropped; a shard that doesn't match its
digest is written again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from qwen3_mlx.errors import OptionError
from qwen3_mlx.files import open_regular, read_small
from qwen3_mlx.quantize.disk import Disk

DIGESTS = "sha256"
"""The entry of a result's record with the SHA-256 of each file of weights, by name."""


@dataclass(frozen=True)
class ConversionJournal:
    """The journal of the conversion in `directory`."""

    disk: Disk
    file: Path
    directory: Path
    shards: dict[str, str]
    """SHA-256 of each finished shard, by name."""

    @classmethod
    def open(cls, disk: Disk, file: Path, directory: Path, key: str) -> ConversionJournal:
        """Resume the conversion `key` in `directory`, or empty the directory and begin.

        Raises `OptionError` if the directory wasn't made by a conversion.
        """
        check_directory(directory, file)
        lines = _read(file)
        if lines and lines[0] == {"key": key}:
            # The file is rewritten, so that nothing is appended to an incomplete line.
            finished = {line["shard"]: line["sha256"] for line in lines[1:]}
        else:
            finished = {}
            if directory.exists():
                disk.remove(directory)
        records = [{"key": key}, *({"shard": n, "sha256": d} for n, d in finished.items())]
        disk.make_directory(file.parent)
        disk.write_file(file, b"".join(map(_line, records)))
        disk.make_directory(directory)
        return cls(disk, file, directory, finished)

    def holds(self, shard: str, size: int) -> bool:
        """Whether `shard` was finished and is unchanged."""
        path = self.directory / shard
        if shard not in self.shards or not path.is_file() or path.stat().st_size != size:
            return False
        return sha256(path) == self.shards[shard]

    def add(self, shard: str, digest: str) -> None:
        """Record that `shard` is finished, and sync."""
        with self.disk.create(self.file, append=True) as stream:
            self.disk.write(stream, _line({"shard": shard, "sha256": digest}))
            self.disk.sync(stream)
        self.shards[shard] = digest


def finished_shards(file: Path) -> dict[str, str]:
    """The SHA-256 of each shard that the journal `file` calls finished, by name."""
    return {line["shard"]: line["sha256"] for line in _read(file)[1:]}


def changed(directory: Path, digests: Iterable[tuple[str, str]]) -> str | None:
    """What file of `directory` isn't there with its digest of `digests`, or None. Reads it all."""
    for name, digest in digests:
        if (got := sha256(directory / name)) != digest:
            return f"{name} with sha256 {got}, not {digest}"
    return None


def check_directory(directory: Path, file: Path) -> None:
    """Raise `OptionError` if `directory` is there without the journal `file`: it's the user's."""
    if directory.exists() and not file.exists():
        hint = "move it away: the conversion grows there before it takes its own name"
        raise OptionError("a directory is in the way", got=str(directory), hint=hint)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _line(value: dict[str, str]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _read(file: Path) -> list[dict[str, str]]:
    """The valid lines before the first invalid one."""
    try:
        text = read_small(file)
    except OSError:
        return []
    found: list[dict[str, str]] = []
    for line in text.split(b"\n")[:-1]:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            break
        # The first line is the key's, all others are shards'.
        expected = {"shard", "sha256"} if found else {"key"}
        if not isinstance(value, dict) or set(value) != expected:
            break
        if not all(isinstance(text, str) for text in value.values()):
            break
        found.append(value)
    return found

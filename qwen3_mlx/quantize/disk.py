"""All disk writes of a conversion go through a `Disk`, which tests replace."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import IO


class Disk:
    """Writes to the real file system."""

    def free_bytes(self, path: Path) -> int:
        """Free bytes on the file system of `path`, which need not exist."""
        while not path.exists():
            path = path.parent
        return shutil.disk_usage(path).free

    def make_directory(self, path: Path) -> None:
        """Make a directory and its parents unless they exist."""
        path.mkdir(parents=True, exist_ok=True)

    def create(self, path: Path, *, append: bool = False) -> IO[bytes]:
        """Open a file for writing from the start, or at its end."""
        return path.open("ab" if append else "wb", buffering=0)

    def write(self, stream: IO[bytes], data: memoryview | bytes) -> None:
        """Write all of `data`."""
        view = memoryview(data).cast("B")
        while view:
            view = view[stream.write(view) :]

    def sync(self, stream: IO[bytes]) -> None:
        """Wait until the file's bytes are on the disk."""
        os.fsync(stream.fileno())

    def rename(self, source: Path, target: Path) -> None:
        """Rename over `target`, and sync the directory."""
        source.replace(target)
        handle = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def remove(self, path: Path) -> None:
        """Remove a file or a whole directory."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def write_file(self, path: Path, data: bytes) -> None:
        """Write a small file atomically: under a temporary name, synced, then renamed."""
        part = path.with_name(f".{path.name}.part")
        with self.create(part) as stream:
            self.write(stream, data)
            self.sync(stream)
        self.rename(part, path)

"""MLX's CPU backend compiles into a folder for temporary files; where it can't, it must not try."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

ROOM = 2**20
"""Bytes that must be free; one compiled function takes 20 kB."""


def can_compile(version: str) -> bool:
    """Whether ``mx.compile`` finds room to write in for this `version` of MLX.

    C++'s folder for temporary files, which others may have filled or shut: the first user of a
    machine makes ``/tmp/mlx``, and nobody else may write there.
    """
    names = ("TMPDIR", "TMP", "TEMP", "TEMPDIR")
    base = next(filter(None, map(os.environ.get, names)), "/tmp")
    folder = Path(base, "mlx", version, "cpu")
    try:
        while not folder.exists():
            folder = folder.parent
        return os.access(folder, os.W_OK | os.X_OK) and shutil.disk_usage(folder).free >= ROOM
    except OSError:
        return False

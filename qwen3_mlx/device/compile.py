"""Checks whether MLX's CPU backend can write its compiled functions to the temporary folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

ROOM = 2**20
"""Free bytes that are required; one compiled function takes 20 kB."""


def can_compile(version: str) -> bool:
    """Whether ``mx.compile`` of this `version` of MLX can write to C++'s temporary folder.

    The disk may be full, or the folder another user's: the first user of a machine creates
    ``/tmp/mlx``, and others can't write there.
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

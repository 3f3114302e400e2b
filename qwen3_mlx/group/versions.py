"""Compares versions and model files of machines."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

from qwen3_mlx.checkpoint.fingerprint import digest_of_file
from qwen3_mlx.checkpoint.headers import shard_files
from qwen3_mlx.checkpoint.share_files import read_shares
from qwen3_mlx.files import read_small

NAMES = ("qwen3-mlx", "mlx")


def own() -> dict[str, str]:
    """This machine's versions, which must be equal on all machines."""
    return {name: metadata.version(name) for name in NAMES}


def difference(other: object) -> str:
    """The differences of another machine's versions, as text; "" if there are none."""
    theirs = other if isinstance(other, dict) else {}
    return ", ".join(
        f"{name} {theirs.get(name, 'unknown')} there, {mine} here"
        for name, mine in own().items()
        if theirs.get(name) != mine
    )


def digest(directory: Path) -> str:
    """A digest of a checkpoint that is the same on all machines: without file times.

    Raises `CheckpointError`, `ConfigError` or `OSError`.
    """
    found = hashlib.sha256(read_small(directory / "config.json"))
    if read_shares(directory) is not None:
        return found.hexdigest()  # config.json has every file's digest; each machine checks its own
    for file in shard_files(directory):
        found.update(f"{file.name} {digest_of_file(file)}\n".encode())
    return found.hexdigest()

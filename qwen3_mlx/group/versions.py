"""Are two machines' programs and model files alike?"""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

from qwen3_mlx.checkpoint.fingerprint import SAMPLE_BYTES, SAMPLES
from qwen3_mlx.checkpoint.headers import shard_files
from qwen3_mlx.files import open_regular, read_small

NAMES = ("qwen3-mlx", "mlx")


def own() -> dict[str, str]:
    """The versions that must be equal on all machines."""
    return {name: metadata.version(name) for name in NAMES}


def difference(other: object) -> str:
    """What differs from this machine's, in words; empty if nothing does."""
    theirs = other if isinstance(other, dict) else {}
    return ", ".join(
        f"{name} {theirs.get(name, 'unknown')} there, {mine} here"
        for name, mine in own().items()
        if theirs.get(name) != mine
    )


def digest(directory: Path) -> str:
    """What tells two checkpoints apart on different machines: all but the files' times.

    Raises `CheckpointError` or `OSError`.
    """
    found = hashlib.sha256(read_small(directory / "config.json"))
    for file in shard_files(directory):
        size = file.stat().st_size
        found.update(f"{file.name} {size}\n".encode())
        with open_regular(file) as stream:
            length = int.from_bytes(stream.read(8), "little")
            found.update(stream.read(min(length, size)))
            for sample in range(SAMPLES):
                stream.seek(size * sample // SAMPLES)
                found.update(stream.read(SAMPLE_BYTES))
    return found.hexdigest()

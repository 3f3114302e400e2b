"""Identifies a checkpoint without reading all of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from qwen3_mlx.checkpoint.headers import shard_files
from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.files import open_regular, read_small

SAMPLES, SAMPLE_BYTES = 16, 4096
_HEADER = 2**24
"""Most bytes of a header that are digested; a GGUF file doesn't begin with a length."""
_TEXT = ("*.json", "*.jinja", "additional_chat_templates/*.jinja")


def stamp(directory: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and modification time (ns) of the checkpoint's files.

    Empty if there is no checkpoint; loading it reports the error.
    """
    try:
        files = [*_texts(directory), *shard_files(directory)]
        return stamp_of(files)
    except (OSError, CheckpointError):
        return ()


def stamp_of(files: Iterable[Path]) -> tuple[tuple[str, int, int], ...]:
    """Name, size and modification time of `files`. Raises `OSError`."""
    return tuple((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files)


def _texts(directory: Path) -> list[Path]:
    found = {file for pattern in _TEXT for file in directory.glob(pattern)}
    return sorted(file for file in found if not file.name.startswith("."))  # not macOS's ._ files


def digest_of_file(file: Path) -> str:
    """A digest of a weight file that is the same on all machines: size, header and samples.

    Raises `OSError`.
    """
    size = file.stat().st_size
    found = hashlib.sha256(f"{size}\n".encode())
    found.update(_sampled(file, size))
    return found.hexdigest()


def _sampled(file: Path, size: int) -> bytes:
    """The header of a weight file of `size` bytes, and samples spread over it."""
    with open_regular(file) as stream:
        length = int.from_bytes(stream.read(8), "little")
        pieces = [stream.read(min(length, size, _HEADER))]
        for sample in range(SAMPLES):
            stream.seek(size * sample // SAMPLES)
            pieces.append(stream.read(SAMPLE_BYTES))
    return b"".join(pieces)


def fingerprint(directory: Path) -> str:
    """A digest of everything in `directory` on which a prompt's keys and values depend.

    It covers all bytes of configuration, tokenizer and templates, and size, modification time,
    header and samples of weights. Raises `CheckpointError` or `OSError`.
    """
    return digest_of(_texts(directory), shard_files(directory))


def digest_of(texts: Iterable[Path], weights: Iterable[Path]) -> str:
    """As `fingerprint`, of these small files and weight files. Raises `OSError`."""
    digest = hashlib.sha256()
    for file in texts:
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        digest.update(read_small(file))
    for file in weights:
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
        digest.update(_sampled(file, status.st_size))
    return digest.hexdigest()

"""What tells two checkpoints apart, found without reading all of their weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from qwen3_mlx.checkpoint.headers import shard_files
from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.files import open_regular, read_small

SAMPLES, SAMPLE_BYTES = 16, 4096
_HEADER = 2**24
"""Bytes of a header at most; a GGUF file's begins with no length."""
_TEXT = ("*.json", "*.jinja", "additional_chat_templates/*.jinja")


def stamp(directory: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of the last change of every file that counts; quick.

    Empty where there is no checkpoint: whoever loads it says what is wrong.
    """
    try:
        files = [*_texts(directory), *shard_files(directory)]
        return stamp_of(files)
    except (OSError, CheckpointError):
        return ()


def stamp_of(files: Iterable[Path]) -> tuple[tuple[str, int, int], ...]:
    """The same of these files. Raises `OSError`."""
    return tuple((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files)


def _texts(directory: Path) -> list[Path]:
    found = {file for pattern in _TEXT for file in directory.glob(pattern)}
    return sorted(file for file in found if not file.name.startswith("."))  # ._ is the Finder's


def digest_of_file(file: Path) -> str:
    """What tells two files of weights apart on different machines: size, header and samples.

    Raises `OSError`.
    """
    size = file.stat().st_size
    found = hashlib.sha256(f"{size}\n".encode())
    with open_regular(file) as stream:
        length = int.from_bytes(stream.read(8), "little")
        found.update(stream.read(min(length, size, _HEADER)))
        for sample in range(SAMPLES):
            stream.seek(size * sample // SAMPLES)
            found.update(stream.read(SAMPLE_BYTES))
    return found.hexdigest()


def fingerprint(directory: Path) -> str:
    """A digest of everything a prompt's keys and values depend on in `directory`.

    Configuration, tokenizer and templates count with every byte; weights with size, time of the
    last change, header, and samples spread over the file. Raises `CheckpointError` or `OSError`.
    """
    return digest_of(_texts(directory), shard_files(directory))


def digest_of(texts: Iterable[Path], weights: Iterable[Path]) -> str:
    """The same of small files and of weights. Raises `OSError`."""
    digest = hashlib.sha256()
    for file in texts:
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        digest.update(read_small(file))
    for file in weights:
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
        with open_regular(file) as stream:
            length = int.from_bytes(stream.read(8), "little")
            digest.update(stream.read(min(length, status.st_size, _HEADER)))
            for sample in range(SAMPLES):
                stream.seek(status.st_size * sample // SAMPLES)
                digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()

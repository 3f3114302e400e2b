"""Checks that the source's files are those that were published.

The hub's cache names each large file by its SHA-256, so a file can be checked against its name.
A thread reads the source a second time during the conversion.
"""

from __future__ import annotations

import re
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.quantize.formats import Source
from qwen3_mlx.quantize.journal import sha256

_SHA256 = re.compile(r"[0-9a-f]{64}")


def published_digest(file: Path) -> str | None:
    """The SHA-256 by which the hub's cache names `file`; None for a file elsewhere."""
    blob = file.resolve()
    return blob.name if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name) else None


def changed_since(source: Source, fingerprint: str) -> CheckpointError | None:
    """The error if the source's `fingerprint` of its planning is no longer its own."""
    try:
        if source.fingerprint() == fingerprint:
            return None
    except OSError:  # its files went after they were read
        return None
    return CheckpointError(
        "the source has changed while it was converted",
        got=f"other weights in {source.directory}",
        hint="run the same command again once nothing writes to it",
    )


class DigestCheck:
    """A context manager that digests the source's files in the background."""

    def __init__(self, source: Source) -> None:
        infos = (
            info for weight in source.weights for part in weight.parts for info in part.tensors
        )
        files = {info.file: published_digest(info.file) for info in infos}
        self._expected = {file: digest for file, digest in files.items() if digest}
        self._pool = ThreadPoolExecutor(1, "digests")
        self._futures: dict[Path, Future[str]] = {}

    def __enter__(self) -> Self:
        self._futures = {file: self._pool.submit(sha256, file) for file in self._expected}
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def error(self) -> CheckpointError | None:
        """Wait for the digests; returns the error if one is wrong."""
        for file, future in self._futures.items():
            got, expected = future.result(), self._expected[file]
            if got != expected:
                return CheckpointError(
                    f"{file.name} is not the file that was published",
                    got=f"sha256 {got}",
                    expected=expected,
                    hint=f"delete {file.resolve()} and fetch the model again",
                )
        return None

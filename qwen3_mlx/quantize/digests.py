"""Are the source's bytes those that were published?

The hub's cache names each large file by its sha256, so the file can be held to its own name. That
reads the source a second time, beside the conversion, in a thread.
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
    """The sha256 that the hub's cache knows for `file`, or None for any other file."""
    blob = file.resolve()
    return blob.name if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name) else None


class DigestCheck:
    """Digests the source's files in the background, from ``with`` on."""

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

    def damage(self) -> CheckpointError | None:
        """Wait for the digests; the error to raise if one is wrong."""
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

"""Says what a stopped conversion leaves, and how to go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qwen3_mlx.cli.terminal.progress import ProgressLine
from qwen3_mlx.cli.terminal.screen import Screen


@contextmanager
def says_how_to_go_on(part: Path, screen: Screen, progress: ProgressLine) -> Iterator[None]:
    """On Ctrl-C, note that what is done stays in `part` and the same command goes on from there."""
    try:
        yield
    except KeyboardInterrupt:
        progress.clear()
        if part.is_dir():
            screen.note(f"stopped; {part} keeps what is done, and the same command goes on from it")
        raise

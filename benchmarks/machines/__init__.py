"""What two cards or machines give: the driver is `__main__`, a file a kind of case beside it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

START = time.perf_counter()
RANK, SIZE = int(os.environ.get("MLX_RANK", "0")), int(os.environ.get("MACHINES_SIZE", "1"))

RESULTS: dict[str, Any] = {}
"""Everything that the cases of this process have measured, by name."""


def say(text: str) -> None:
    """Print with the time since the start; of several processes the first one speaks."""
    if RANK == 0:
        print(f"[{time.perf_counter() - START:6.1f} s] {text}", flush=True)


def keep(name: str) -> None:
    """Write what has been measured so far, from the first process."""
    from benchmarks.record import write

    if RANK == 0:
        write(f"machines-{name}", RESULTS)


def read(name: str, folder: Path) -> dict[str, Any]:
    """The record of a phase; empty if there is none."""
    file = folder / f"machines-{name}.json"
    if not file.is_file():
        return {}
    results: dict[str, Any] = json.loads(file.read_text("utf-8"))["results"]
    return results

"""What a GPU session measures: the harness is `__main__`, a file a kind of case beside it."""

from __future__ import annotations

import time
from typing import Any

START = time.perf_counter()
RESULTS: dict[str, Any] = {}
"""Everything that the cases of this process have measured, by name."""


def say(text: str) -> None:
    """Print with the time since the start."""
    print(f"[{time.perf_counter() - START:6.1f} s] {text}", flush=True)

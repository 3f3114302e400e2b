"""Acts that run at once, each in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


def at_once(*acts: Callable[[], Any], seconds: float = 120) -> list[Any]:
    """What `acts` return or raise, each in a thread of its own, begun together."""
    found: list[Any] = [None] * len(acts)
    barrier = threading.Barrier(len(acts), timeout=60)

    def run(number: int) -> None:
        try:
            barrier.wait()
            found[number] = acts[number]()
        except Exception as error:
            found[number] = error

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
    assert not any(thread.is_alive() for thread in threads), "nobody waits for ever"
    return found

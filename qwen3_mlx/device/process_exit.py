"""Delays a process's exit until the threads that used MLX are gone."""

from __future__ import annotations

import atexit
import threading
import time
from functools import cache
from pathlib import Path

TASKS = Path("/proc/self/task")
"""Linux lists a process's threads here until they have completely ended."""
LONGEST_WAIT_S = 2.0

_threads: dict[int, threading.Thread] = {}
"""The threads that used MLX, by their native ids."""


def delay_exit_after_threads() -> None:
    """Make the process's exit wait for the end of this thread, unless it is the main one.

    MLX frees per-thread state under Python's lock after `join` has returned; a process that exits
    meanwhile aborts ("terminate called without an active exception": 17 of 24 trials on two cores
    with MLX 0.32). Threads that still run at exit are not waited for.
    """
    this = threading.current_thread()
    number = threading.get_native_id()
    if this is threading.main_thread() or _threads.get(number) is this:
        return
    for other, thread in list(_threads.items()):
        if not thread.is_alive() and not _ending(other, thread):
            _threads.pop(other, None)
    _threads[number] = this
    _wait_at_exit()


@cache
def _wait_at_exit() -> None:
    atexit.register(wait_for_ending_threads)


def wait_for_ending_threads() -> None:
    """Wait until every ended thread that used MLX is gone from the system too."""
    if not TASKS.is_dir():
        # macOS ends a thread that waits for Python's lock without unwinding it.
        return
    end = time.monotonic() + LONGEST_WAIT_S
    while time.monotonic() < end:
        if not any(_ending(number, thread) for number, thread in list(_threads.items())):
            return
        time.sleep(0.001)


def _ending(number: int, thread: threading.Thread) -> bool:
    return not thread.is_alive() and (TASKS / str(number)).exists()

"""Runs one job at a time in the background, and stops it as soon as a turn begins."""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
from collections.abc import Callable

Stopped = Callable[[], bool]
"""Asked by a job between its steps: whether to stop."""
BackgroundJob = Callable[[Stopped], object]


class Background:
    """Runs one job at a time, in one thread that lives as long as the process.

    One thread, because MLX creates streams per thread and never frees them.
    """

    def __init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget the job and the thread: a forked process has neither, and would wait for them."""
        self._jobs = queue.SimpleQueue[tuple[BackgroundJob, threading.Event, threading.Event]]()
        self._given_up, self._idle = threading.Event(), threading.Event()
        self._idle.set()
        self._entry = threading.RLock()
        """Held while a job is replaced or waited for, so that a stop always means the current one.
        Reentrant, as an exit's handler may interrupt whoever holds it."""
        self._thread: threading.Thread | None = None

    def run(self, job: BackgroundJob) -> None:
        """Start `job`; an earlier one is stopped first."""
        with self._entry:
            self.stop()
            self._start()
            given_up, idle = threading.Event(), threading.Event()
            try:
                self._given_up, self._idle = given_up, idle
                self._jobs.put((job, given_up, idle))
            except BaseException:  # Ctrl-C: nobody may wait for a job that perhaps never came
                given_up.set()
                idle.set()
                raise

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="background", daemon=True)
            thread.start()
            self._thread = thread
            # A daemon thread, so that exiting doesn't wait for the end of a job; but Python
            # must not shut down while a thread is inside MLX.
            atexit.register(self.stop)

    def give_up(self) -> None:
        """Ask the job to end at its next step, without waiting."""
        self._given_up.set()

    def stop(self) -> None:
        """Ask the job to end at its next step, and wait until it has."""
        with self._entry:
            self.give_up()
            self._idle.wait()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to `timeout` seconds for the job to end by itself; returns whether it has."""
        return self._idle.wait(timeout)

    def _work(self) -> None:
        while True:
            job, given_up, idle = self._jobs.get()
            try:
                job(given_up.is_set)
            except Exception:  # this only saves work: a lasting fault will fail the next turn
                logging.getLogger(__name__).debug("a background job failed", exc_info=True)
            finally:
                del job
                idle.set()


BACKGROUND = Background()
"""The only instance: each turn, of whichever model, stops its job before it computes."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=BACKGROUND.begin_anew)

"""Work done while nobody waits for it, and given up as soon as somebody does."""

from __future__ import annotations

import atexit
import logging
import queue
import threading
from collections.abc import Callable

Stopped = Callable[[], bool]
"""Asked by a job between its steps: whether to give up."""
BackgroundJob = Callable[[Stopped], object]


class Background:
    """One job at a time, in one thread, which lives as long as the process.

    One thread, because MLX gives every thread streams of its own and doesn't take them back.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[BackgroundJob, threading.Event]] = queue.SimpleQueue()
        self._given_up = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._entry = threading.Lock()
        self._thread: threading.Thread | None = None

    def run(self, job: BackgroundJob) -> None:
        """Begin `job`; an earlier one is given up first."""
        with self._entry:
            self.stop()
            self._given_up = threading.Event()
            self._idle.clear()
            self._jobs.put((job, self._given_up))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="background", daemon=True)
                self._thread.start()
                # A daemon, so that leaving doesn't wait for the end of a job; but Python must not
                # be taken down around a thread that is inside MLX.
                atexit.register(self.stop)

    def give_up(self) -> None:
        """Tell the job to end at its next step, without waiting for that."""
        self._given_up.set()

    def stop(self) -> None:
        """Tell the job to end at its next step, and wait until it has."""
        self.give_up()
        self._idle.wait()

    def wait(self, timeout: float | None = None) -> bool:
        """Let the job end by itself; returns whether it has."""
        return self._idle.wait(timeout)

    def _work(self) -> None:
        while True:
            job, given_up = self._jobs.get()
            try:
                job(given_up.is_set)
            except Exception:  # it only saves work: what really fails will fail in the next turn
                logging.getLogger(__name__).debug("a background job failed", exc_info=True)
            finally:
                del job
                self._idle.set()


BACKGROUND = Background()
"""The only one: every turn, whichever model's, stops it before it computes."""

"""The thread that computes for all sequences: it runs a scheduler until it is closed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from qwen3_mlx.device.process_exit import delay_exit_after_threads
from qwen3_mlx.engine.background import BACKGROUND
from qwen3_mlx.engine.scheduler import Scheduler

NAP_SECONDS = 0.05
"""Seconds to wait for memory, or for a listener, before checking again."""


class SchedulerThread:
    """Runs the scheduler that `make` creates in this thread, which then owns its MLX arrays."""

    def __init__(self, make: Callable[[], Scheduler]) -> None:
        self._make = make
        self._ready = threading.Event()
        self._closing = False
        self.degraded = False
        """Whether the last round failed with an error that belonged to no single turn."""
        self._error: BaseException | None = None
        self._scheduler: Scheduler | None = None
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)

    def start(self) -> Scheduler:
        """Start the thread; returns the scheduler, or raises the error of `make`."""
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error
        assert self._scheduler is not None
        return self._scheduler

    @property
    def alive(self) -> bool:
        """Whether the thread runs and isn't closing."""
        return self._thread.is_alive() and not self._closing

    def close(self, seconds: float = 0.0) -> None:
        """Let tasks run for up to `seconds`, interrupt the rest, and wait until the thread ends."""
        scheduler, end = self._scheduler, time.monotonic() + seconds
        if scheduler is None:
            return
        while time.monotonic() < end and self.alive and scheduler.busy:
            time.sleep(NAP_SECONDS)
        scheduler.stop_all()
        self._closing = True
        with scheduler.arrived:
            scheduler.arrived.notify_all()
        self._thread.join()

    def let_go(self) -> None:
        """As `close`, but interrupt at once and don't wait for the thread."""
        if self._scheduler is not None:
            self._closing = True
            self._scheduler.stop_all()

    def _work(self) -> None:
        delay_exit_after_threads()
        try:
            BACKGROUND.stop()
            self._scheduler = self._make()
        except BaseException as error:
            self._error = error
            return
        finally:
            self._ready.set()
        scheduler = self._scheduler
        while not self._closing or scheduler.busy:
            busy = self._round(scheduler)
            scheduler.on_news()
            if not busy and not self._closing:
                self._wait(scheduler)

    def _round(self, scheduler: Scheduler) -> bool:
        try:
            busy = scheduler.round()
        except Exception as error:  # it belongs to no turn, and the next request must work
            if not self.degraded:
                said = "the scheduler failed; running turns were ended"
                logging.getLogger(__name__).exception(said)
            self.degraded = True
            scheduler.fail_all(error)
            time.sleep(NAP_SECONDS)
            return True
        self.degraded = False
        return busy

    def _wait(self, scheduler: Scheduler) -> None:
        with scheduler.arrived:
            if scheduler.running:
                scheduler.arrived.wait(NAP_SECONDS)
            elif not scheduler.busy and not self._closing:
                scheduler.arrived.wait(1.0)

"""Batches the turns that several threads run on one model at the same time."""

from __future__ import annotations

import atexit
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.device.process_exit import wait_for_ending_threads
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.scheduler import Scheduler
from qwen3_mlx.engine.scheduler_thread import SchedulerThread
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import CacheFormat

MAX_BATCHED_TURNS = 16
"""Turns that share one decoding step; further turns wait in the queue."""
LAST_WORDS_S = 0.5
"""Seconds that a process waits at its end for the threads whose turns it has just ended."""


class ConcurrentTurns:
    """Counts the threads that run a turn, and owns the scheduler thread that batches their turns.

    While only one thread runs turns, it computes them itself. The scheduler thread starts when a
    second one appears, and stays: MLX creates streams per thread and never frees them.
    """

    def __init__(self) -> None:
        # Reentrant: the garbage collector may end a turn while this thread holds the lock.
        self._lock = threading.RLock()
        self._threads: dict[TurnSlot, int] = {}
        self._scheduler: Scheduler | None = None
        self.several_threads = False
        """Whether more than one thread runs a turn."""
        _turns.add(self)

    @contextmanager
    def place(self, joins: bool) -> Iterator[TurnSlot]:
        """Register a turn of this thread; only with `joins` may it move to the scheduler."""
        place = TurnSlot(self, joins)
        self._change(lambda: self._threads.update({place: threading.get_ident()}))
        try:
            yield place
        finally:
            self._change(lambda: self._threads.pop(place))

    def _change(self, change: Callable[[], object]) -> None:
        with self._lock:
            change()
            self.several_threads = len(set(self._threads.values())) > 1

    def scheduled(self) -> set[int]:
        """The identifiers of the threads whose turns the scheduler computes."""
        with self._lock:
            return {thread for place, thread in self._threads.items() if place.left}

    def scheduler(
        self,
        network: Qwen3Network,
        config: Qwen3Config,
        cache_format: CacheFormat,
        helper: Qwen3Config | None = None,
    ) -> Scheduler:
        """The scheduler of this network, started on the first call.

        cache_format: that of the turns' caches. helper: the configuration of the draft model.
        """
        with self._lock:
            if self._scheduler is None:
                thread = SchedulerThread(lambda: _scheduler(network, config, cache_format, helper))
                self._scheduler = thread.start()
                _open.add(thread)
                weakref.finalize(self, thread.let_go).atexit = False
            return self._scheduler


class TurnSlot:
    """One turn's registration in `ConcurrentTurns`."""

    def __init__(self, concurrent_turns: ConcurrentTurns, joins: bool) -> None:
        self._turns, self._joins = concurrent_turns, joins
        self.left = False
        """Whether the turn continues in the scheduler."""

    def leave(self) -> bool:
        """Whether to continue in the scheduler, because other threads run turns too."""
        self.left = self.left or (self._joins and self._turns.several_threads)
        return self.left

    def move(self) -> bool:
        """Continue in the scheduler, if the turn may."""
        self.left = self._joins
        return self.left


def _scheduler(
    network: Qwen3Network,
    config: Qwen3Config,
    cache_format: CacheFormat,
    helper: Qwen3Config | None,
) -> Scheduler:
    return Scheduler(
        network,
        config,
        lambda: PromptCache(network, cache_format),
        cache_format=cache_format,
        parallel=MAX_BATCHED_TURNS,
        waiting=10**9,  # as many as there are threads
        prefix_bytes=0,
        helper=helper,
        patience=math.inf,
    )


_open: weakref.WeakSet[SchedulerThread] = weakref.WeakSet()
_turns: weakref.WeakSet[ConcurrentTurns] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Stop the scheduler threads: Python must not shut down while a thread is inside MLX.

    The threads whose turns this ends are in MLX for a moment longer, and are waited for.
    """
    readers = {thread for turns in list(_turns) for thread in turns.scheduled()}
    for thread in list(_open):
        thread.close()
    end = time.monotonic() + LAST_WORDS_S
    for reader in threading.enumerate():
        if reader.ident in readers and reader is not threading.current_thread():
            reader.join(max(end - time.monotonic(), 0.0))
    wait_for_ending_threads()

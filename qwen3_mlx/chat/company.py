"""Turns of one model that several threads have under way: those are computed together."""

from __future__ import annotations

import atexit
import math
import threading
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

MOST_TOGETHER = 16
"""Turns in one step; more wait for their turn."""


class Company:
    """Knows who has a turn under way, and has a thread in which turns of several run together.

    The turns of one thread are computed in it, one after another. The thread for all begins when
    it is first needed, and stays: MLX gives every thread streams of its own and keeps them.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a turn may be ended by the collector, within one of these
        self._threads: dict[Place, int] = {}
        self._scheduler: Scheduler | None = None
        self.crowded = False
        """Whether turns of more than one thread are under way."""

    @contextmanager
    def place(self, joins: bool) -> Iterator[Place]:
        """Take part with a turn of this thread; it stays in its thread unless it `joins`."""
        place = Place(self, joins)
        self._change(lambda: self._threads.update({place: threading.get_ident()}))
        try:
            yield place
        finally:
            self._change(lambda: self._threads.pop(place))

    def _change(self, change: Callable[[], object]) -> None:
        with self._lock:
            change()
            self.crowded = len(set(self._threads.values())) > 1

    def scheduler(
        self,
        network: Qwen3Network,
        config: Qwen3Config,
        cache_format: CacheFormat,
        helper: Qwen3Config | None = None,
    ) -> Scheduler:
        """Where turns of this network, whose caches have this format, run together.

        helper: the network that drafts for them.
        """
        with self._lock:
            if self._scheduler is None:
                thread = SchedulerThread(lambda: _scheduler(network, config, cache_format, helper))
                self._scheduler = thread.start()
                _open.add(thread)
                weakref.finalize(self, thread.let_go).atexit = False
            return self._scheduler


class Place:
    """One turn's part in a company."""

    def __init__(self, company: Company, joins: bool) -> None:
        self._company, self._joins = company, joins
        self.left = False
        """Whether the turn is to go on among the others."""

    def leave(self) -> bool:
        """Whether to stop computing here, because other threads have turns too."""
        self.left = self.left or (self._joins and self._company.crowded)
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
        parallel=MOST_TOGETHER,
        waiting=10**9,  # as many as there are threads
        prefix_bytes=0,
        helper=helper,
        patience=math.inf,
    )


_open: weakref.WeakSet[SchedulerThread] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Python must not be taken down around a thread that is inside MLX."""
    for thread in list(_open):
        thread.close()
    wait_for_ending_threads()

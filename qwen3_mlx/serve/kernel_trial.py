"""Tries a served model's kernels once: in child processes beside the turns, then in a quiet moment.

A chat tries them before its first turn. A server must answer at once, and may be all that its user
ever runs; so until they are known to be right and faster, MLX's operations run.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.engine.scheduler import Scheduler
from qwen3_mlx.metal import prove
from qwen3_mlx.metal.compile_ahead import compile_ahead
from qwen3_mlx.metal.launch import Launch
from qwen3_mlx.nn import ahead, trial
from qwen3_mlx.nn.signature import say
from qwen3_mlx.nn.trial_outcome import summary

QUIET_SECONDS = 2.0
"""Seconds without a step before whole steps are timed: an agent's next request comes sooner."""

PAUSE_SECONDS, TRIES = 30.0, 5
"""Seconds after a request has ended the timing, and how often it may."""


class KernelTrial:
    """The trial of one model's kernels; `step` belongs to the scheduler's thread."""

    def __init__(
        self,
        runtime: Runtime,
        scheduler: Scheduler,
        ending: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """ending: whether the server ends, and with it the trial."""
        self._runtime, self._scheduler, self._ending = runtime, scheduler, ending
        self._clock, self._next = clock, self._begin
        self._over, self._thread = threading.Event(), threading.Thread()
        self._fault: str | None = None
        self._launches: deque[Launch] | None = None
        self._steps, self._not_before, self._tries = 0, 0.0, 0

    @property
    def under_way(self) -> bool:
        """Whether it isn't known yet how steps will run."""
        return self._next != self._nothing

    def step(self) -> bool:
        """Go on while nothing runs; returns whether anything was done."""
        steps, now = self._scheduler.counts.steps, self._clock()
        if steps != self._steps:
            self._steps, self._not_before = steps, max(self._not_before, now + QUIET_SECONDS)
        return now >= self._not_before and self._next()

    def close(self) -> None:
        """End the child processes, and wait for that."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _nothing(self) -> bool:
        return False

    def _begin(self) -> bool:
        self._next = self._nothing
        if not trial.wanted(self._runtime.network, self._runtime.cache_format):
            return False
        say("trying this model's kernels beside the requests, once: some ten seconds")
        self._thread = threading.Thread(target=self._prove, name="kernels", daemon=True)
        self._thread.start()
        self._next = self._time
        return True

    def _prove(self) -> None:
        given = (self._runtime.network, self._runtime.cache_format, self._runtime.name)
        try:
            self._fault = trial.prove_beside(*given, skipped=self._is_over)
        except prove.Skipped:
            self._fault = "" if self._is_over() else "the machine slept meanwhile"
        except Exception as error:  # a failed proof must not cost a turn
            self._fault = f"not tried: {error}"

    def _time(self) -> bool:
        """Time whole steps; a request ends that, and it begins anew in a later quiet moment."""
        if self._thread.is_alive():
            return False
        if self._fault is not None:
            return self._end(self._fault)
        given = (self._runtime.network, self._runtime.cache_format, self._runtime.name)
        try:
            if self._compile():
                return True
            found, fault = trial.run(*given, rows=False, skipped=self._is_interrupted)
        except prove.Skipped:
            self._tries, self._not_before = self._tries + 1, self._clock() + PAUSE_SECONDS
            return self._tries < TRIES or self._end("requests left no time for it")
        except Exception as error:
            return self._end(f"not tried: {error}")
        if fault:
            return self._end(f"the result can't be kept: {fault}")
        self._next = self._nothing  # before what may fail: it would fail in every round
        self._scheduler.side_by_side.reconsider()
        if self._runtime.drafts is not None:
            self._runtime.drafts.reconsider()
        self._scheduler.prefixes.renew()
        if found is not None:
            say(f"kernels: {summary(found)}")
        return True

    def _compile(self) -> bool:
        """Compile one kernel, so that a request waits for no more; False if none is left."""
        if self._launches is None:
            given = (self._runtime.network, self._runtime.cache_format)
            self._launches = deque(ahead.launches_of_arms(*given))
        if not self._launches:
            return False
        compile_ahead([self._launches.popleft()])
        return True

    def _end(self, reason: str) -> bool:
        self._next = self._nothing
        if reason:
            say(f"kernels: plain operations run; {reason}; the next start tries again")
        return True

    def _is_over(self) -> bool:
        return self._over.is_set() or self._ending()

    def _is_interrupted(self) -> bool:
        self._scheduler.last_round = self._clock()  # the loop lives: this is a part of a round
        return self._is_over() or self._scheduler.busy

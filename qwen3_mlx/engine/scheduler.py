"""Batches many sequences on one network; they join, leave, wait and fail between steps.

Each sequence has its own cache and its own draws, so its output doesn't depend on the others. A
step computes one token of every running sequence, in one forward pass that reads the weights once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from functools import partial

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.engine.decision import Ask, Decision, End, Inject
from qwen3_mlx.engine.decode import Decoder, obey
from qwen3_mlx.engine.fair import ALONE_SECONDS, STALLED_SECONDS, next_reader
from qwen3_mlx.engine.idle import IdleWork
from qwen3_mlx.engine.memory_admission import Admission
from qwen3_mlx.engine.prefill import require_numbers
from qwen3_mlx.engine.prefixes import Prefixes
from qwen3_mlx.engine.probe_steps import probe_steps
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.prompt_reader import PromptReader
from qwen3_mlx.engine.side_by_side import SideBySide
from qwen3_mlx.engine.side_work import SideWork, too_many
from qwen3_mlx.engine.step_times import StepTimes
from qwen3_mlx.engine.task import Counts, Task
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import AS_COMPUTED, CacheFormat


class Scheduler:
    """Runs the submitted tasks; one thread calls `round` until nothing is left.

    At most `parallel` tasks run; up to `waiting` more wait in order of arrival. A task that doesn't
    fit into memory beside the running ones waits too; one that can never fit is refused.
    """

    def __init__(
        self,
        network: Qwen3Network,
        config: Qwen3Config,
        new_cache: Callable[[], PromptCache],
        *,
        cache_format: CacheFormat = AS_COMPUTED,
        parallel: int = 8,
        waiting: int = 64,
        prefix_bytes: int = 1_000_000_000,
        helper: Qwen3Config | None = None,
        clock: Callable[[], float] = time.monotonic,
        patience: float = STALLED_SECONDS,
    ) -> None:
        self.network, self.config, self._patience = network, config, patience
        self.parallel, self.most_waiting = parallel, waiting
        self.prefixes, self.counts = Prefixes(new_cache, prefix_bytes), Counts()
        self.side_by_side = SideBySide(network, cache_format, most=parallel, counts=self.counts)
        self.arrived = threading.Condition()
        """Notified when a task or side work arrives, and when all are stopped."""
        self.on_news: Callable[[], object] = lambda: None
        """Called after listeners were told something: once for all tokens of a round."""
        self.when_idle: Callable[[], bool] = lambda: False
        """Called in a round with nothing else to do; returns whether it did anything."""
        self._admission = Admission(config, cache_format, helper)
        self._waiting, self._running = deque[Task](), list[Task]()
        self._clock, self._steps = clock, StepTimes(clock)
        self._reader = PromptReader(network, config, self.side_by_side.fused, clock, new_cache)
        self._idle = IdleWork(network, self.prefixes, self._reader.pace)
        self.side_work, self.last_round = SideWork(waiting + parallel), clock()

    def submit(self, task: Task) -> None:
        """Queue `task` to run when there is room; from any thread. Raises `BusyError`."""
        with self.arrived:
            if len(self._waiting) >= self.most_waiting + self.parallel - len(self._running):
                raise too_many(f"{len(self._running)} running and {len(self._waiting)} waiting")
            self._waiting.append(task)
            self.arrived.notify_all()

    def beside(self, work: Generator[object]) -> None:
        """Queue `work`, which advances by a step per round; from any thread. Raises `BusyError`."""
        with self.arrived:
            self.side_work.add(work)
            self.arrived.notify_all()

    def position(self, task: Task) -> int | None:
        """The number of tasks that wait before `task`; None if it doesn't wait."""
        with self.arrived:
            return self._waiting.index(task) if task in self._waiting else None

    @property
    def running(self) -> int:
        """The number of running tasks."""
        return len(self._running)

    @property
    def busy(self) -> bool:
        """Whether any task or side work runs or waits."""
        return bool(self._running or self._waiting or len(self.side_work))

    @property
    def waiting(self) -> int:
        """The number of tasks that wait for room."""
        return len(self._waiting)

    def round(self) -> bool:
        """Admit, read one chunk of a prompt or do side work, and step every sequence once.

        Returns whether anything was done; if not, wait on `arrived`.
        """
        self.last_round = self._clock()
        self._drop_stopped()
        self._admit()
        self.on_news()  # before a chunk, which may take long; `SchedulerThread` calls it after
        worked = self.side_work.step(by_turns=any(not task.decoder for task in self._running))
        running = self._answering()
        read = not worked and self._read(running)
        # a task that has just read its prompt joins next round: more rows may need a new trace
        stepped = self._step(running or self._answering())
        if read or stepped or worked or self._running or self._waiting:
            return read or stepped or worked
        idle = self._idle.step, self.side_by_side.get_ready, self._reader.get_ready, self.when_idle
        return any(work() for work in idle)

    def _answering(self) -> list[Task]:
        return [task for task in self._running if task.decoder and not task.probed]

    def stop_all(self) -> None:
        """Interrupt all running and waiting tasks; they end at their next step."""
        with self.arrived:
            for task in [*self._running, *self._waiting]:
                task.sequence.control.interrupt("stop")
            self.side_work.close()
            self.arrived.notify_all()

    def fail_all(self, error: Exception) -> None:
        """End all running and waiting tasks with `error`; drop all prefixes: none is reliable."""
        self.counts.faults += 1
        with self.arrived:
            tasks = [*self._running, *self._waiting]
            self._waiting.clear()
            self.side_work.close()
        for task in tasks:
            self._fail(task, error)
        self._idle.clear()
        self.prefixes.clear()

    def _drop_stopped(self) -> None:
        now = self._clock()
        for task in self._running:
            if task.decoder and task.listener.full() and now - task.touched > self._patience:
                task.sequence.control.interrupt("stop")
        with self.arrived:
            dropped = [task for task in self._waiting if task.sequence.control.stopped]
            for task in dropped:
                self._waiting.remove(task)
        # a generating task ends at its next token, where its sequence counts it
        stopped = [task for task in self._running if task.sequence.control.stopped]
        dropped += [task for task in stopped if task.decoder is None or task.listener.full()]
        for task in dropped:
            task.sequence.finish_reason = "interrupted"
            self._finish(task)

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self.parallel:
            task = self._waiting[0]
            promised = sum(other.to_come for other in self._running)
            error: Exception | None = None
            try:
                if not self._has_room(task, promised):
                    return
            except Exception as refused:
                error = refused
            with self.arrived:  # in one move, or `stop_all` would find it in neither place
                self._waiting.remove(task)
                if error is None:
                    self._running.append(task)
            if error is not None:
                self._fail(task, error)
            else:
                self._guarded(task, self._begin)

    def _has_room(self, task: Task, promised: int) -> bool:
        alone = not self._running
        if alone and task.own is not None:  # its memory is checked as it grows
            return True
        return self._admission.room(task.rows, promised, alone, self.prefixes)

    def _begin(self, task: Task) -> None:
        if task.decoder is not None:  # it has been decoding in another thread
            return
        task.begin(self.prefixes, [other.cache for other in self._running if other.cache])
        assert task.cache is not None
        self._idle.forget_taken()
        task.touched = self._clock()
        self.counts.prompt_tokens += len(task.prompt)
        self.counts.cached_tokens += len(task.cache.tokens)
        task.listener.reading(len(task.cache.tokens), len(task.prompt))

    def _read(self, answering: Sequence[Task]) -> bool:
        """Read a chunk of one prompt; False if none is left, or the next step takes longer."""
        prompts = [task for task in self._running if task.decoder is None]
        awake = [task.cache for task in answering if task.cache and not task.listener.full()]
        if not prompts or not self.side_by_side.is_even(awake):
            return False
        found = next_reader([(task.left, task.touched) for task in prompts], self._clock())
        self._guarded(prompts[found], self._read_chunk)
        return True

    def _read_chunk(self, task: Task) -> None:
        cache = task.cache
        assert cache is not None
        answering = any(other.decoder is not None for other in self._running)
        seconds = self._steps.chunk_seconds() if answering else ALONE_SECONDS
        with cache.filling():
            logits = self._reader.read(task, seconds, answering)
            task.touched = self._clock()
            task.listener.reading(len(cache.tokens), len(task.prompt))
            if logits is None:
                return
            require_numbers(logits)
            cache.mark()
            self._obey(task, task.decode(logits), task.sequence.begin())

    def _step(self, tasks: Sequence[Task]) -> bool:
        """Generate one token for each of `tasks` whose listener has room; False if none has."""
        awake = [task for task in tasks if not task.listener.full()]
        if not awake:
            self._steps.pause()
            return False
        began = self._clock()
        able = [task for task in awake if self._guarded(task, Task.get_ready)]
        for task, token in zip(able, self._tokens(able), strict=False):
            self._guarded(task, partial(self._advance, token=token))
        self.counts.longest_gap = max(self.counts.longest_gap, self._steps.ended(began))
        return True

    def _tokens(self, tasks: Sequence[Task]) -> list[int]:
        """The next token of each of `tasks`; if the step raises, all fail and none is returned."""
        try:
            decoders = [task.decoder for task in tasks if task.decoder]
            return self.side_by_side.step(decoders, self._steps.waited)
        except Exception as error:
            for task in tasks:
                self._fail(task, error)
            return []

    def _advance(self, task: Task, token: int) -> None:
        """Deliver `token` and the correct drafts after it, up to a cut or the end."""
        decoder = task.decoder
        assert decoder is not None
        with decoder.cache.filling():
            task.touched, decision = self._clock(), self._say(task, decoder, token)
            while not isinstance(decision, End) and decoder.ready:
                decision = self._say(task, decoder, decoder.step())
        if isinstance(decision, End):
            self._finish(task)

    def _say(self, task: Task, decoder: Decoder, token: int) -> Decision:
        self.counts.generated_tokens += 1
        task.listener.said((token,), True, decoder.logprobs)
        decision = task.sequence.take(token)
        self._obey(task, decoder, decision)
        return decision

    def _obey(self, task: Task, decoder: Decoder, decision: Decision) -> None:
        if isinstance(decision, Ask):
            self.side_work.put(probe_steps(task, decision, self._guarded, self._obey))
        if isinstance(decision, Inject):
            obey(decoder, decision)
            self.counts.generated_tokens += len(decision.ids) if decision.generated else 0
            task.listener.said(decision.ids, decision.generated, None)

    def _guarded(self, task: Task, act: Callable[[Task], None]) -> bool:
        """Run `act` for one task; an error fails that task alone, and returns False."""
        try:
            act(task)
        except Exception as error:
            self._fail(task, error)
            return False
        return True

    def _finish(self, task: Task) -> None:
        self._leave(task)
        reason = self.counts.end(task.sequence)
        task.end()
        if task.cache is not None and task.own is None:
            self.prefixes.add(task.cache)
            if task.lasting is not None and reason == "stop":
                self._idle.add(task.cache, task.lasting)

    def _fail(self, task: Task, error: Exception) -> None:
        self._leave(task)
        self.counts.failed += 1
        task.fail(error)

    def _leave(self, task: Task) -> None:
        with self.arrived:
            self._running = [other for other in self._running if other is not task]
        task.leave()

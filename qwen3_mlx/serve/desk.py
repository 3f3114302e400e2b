"""Connects the event loop and the scheduler's thread: starts, follows and ends turns."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from qwen3_mlx.chat.request import Request
from qwen3_mlx.chat.turns import Reading, Turn
from qwen3_mlx.device.out_of_memory import is_out_of_memory, out_of_memory
from qwen3_mlx.engine.scheduler import Scheduler
from qwen3_mlx.engine.scheduler_thread import SchedulerThread
from qwen3_mlx.engine.side_work import begun
from qwen3_mlx.events import Done, Event, ToolCall
from qwen3_mlx.model import Qwen3
from qwen3_mlx.serve.api_error import ApiError
from qwen3_mlx.serve.ask import Ask, ready
from qwen3_mlx.serve.kept_prefixes import KeptPrefixes
from qwen3_mlx.serve.kernel_trial import KernelTrial
from qwen3_mlx.serve.metrics import Metrics

SILENCE_SECONDS = 5.0
"""A client gets a sign of life at least this often, even if the turn has no events."""
WRITING_SECONDS = 30.0
"""How long the shutdown waits for conversations to be written to disk."""
LOOK_SECONDS = 0.5
"""How often a turn without events checks that the scheduler's thread is alive."""
ADMISSION_SECONDS = 2.0
"""How long a stream's HTTP status waits for the turn to begin, so that a refusal isn't a 200."""

LONG_BODY = 2**20
"""Bytes of a request beyond which another thread makes its prompt: 20 MB take seconds."""

T = TypeVar("T")
_LOG = logging.getLogger(__name__)


class Desk:
    """Submits requests to the scheduler; all but its thread belongs to the event loop."""

    def __init__(self, model: Qwen3, thread: SchedulerThread, scheduler: Scheduler) -> None:
        self.model, self.thread, self.scheduler = model, thread, scheduler
        self.metrics = Metrics()
        self.began = time.time()
        self.draining = False
        self.kept: KeptPrefixes | None = None
        self.kernels: KernelTrial | None = None
        self._helpers = [ThreadPoolExecutor(1, f"prompts-{size}") for size in ("short", "long")]
        self._turns: dict[str, Open] = {}
        self._news: list[asyncio.Event] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        scheduler.on_news = self._wake

    def check_open(self) -> None:
        """Raise `ApiError` (503) during shutdown, or if the scheduler's thread has ended."""
        if self.draining:
            raise ApiError(503, "the server is shutting down", code="shutting_down")
        if not self.thread.alive:
            raise ApiError(503, "nothing is computed any more: restart the server", code="stopped")

    async def work(self, act: Callable[[], T], size: int) -> T:
        """Run `act` in a helper thread: templates and tokenizing would block the event loop."""
        helper = self._helpers[size > LONG_BODY]
        return await asyncio.get_running_loop().run_in_executor(helper, act)

    async def begin(self, id: str, ask: Ask, size: int) -> Open:
        """Prepare a turn and submit it to the scheduler. Raises `ApiError` or `Qwen3Error`."""
        self.check_open()
        request = await self.work(lambda: ready(self.model.runtime, ask), size)
        self._loop = asyncio.get_running_loop()
        opened = Open(self, id, ask, request)
        self.scheduler.submit(opened.turn.task)
        self._turns[id] = opened
        return opened

    async def beside(self, work: Generator[object, None, T]) -> T:
        """The result of `work`, run in the scheduler's thread, a step of it between turns' steps.

        Raises the errors of `work`, `ApiError` and `BusyError`.
        """
        self.check_open()
        loop = asyncio.get_running_loop()
        found: asyncio.Future[T] = loop.create_future()
        try:
            self.scheduler.beside(begun(_told(work, found, loop)))
            return await found
        finally:
            found.cancel()  # of no effect but if the work was refused: then nobody hears of its end

    @property
    def busy(self) -> int:
        """The number of open turns."""
        return len(self._turns)

    def keep_prefixes(self) -> None:
        """Write the cached conversations to disk if a folder is set; stops running turns first."""
        if self.kept is None or not self.thread.alive:
            return
        self.scheduler.stop_all()
        written, kept, prefixes = threading.Event(), self.kept, self.scheduler.prefixes

        def work() -> Generator[None]:
            try:
                yield
                while self.scheduler.running:  # the stopped turns' caches are written too
                    yield
                yield from kept.save(prefixes)
            finally:
                written.set()

        self.scheduler.beside(begun(work()))
        written.wait(WRITING_SECONDS)

    def close(self) -> None:
        """End the running turns, the scheduler's thread and the helper threads."""
        self.draining = True
        self.thread.close(0.0)
        if self.kernels is not None:  # last, as a round of the thread may have begun the trial
            self.kernels.close()
        for helper in self._helpers:
            helper.shutdown(wait=False, cancel_futures=True)

    def forget(self, opened: Open) -> None:
        """Remove a turn that has ended or lost its client; counts and logs it once."""
        if self._turns.pop(opened.id, None) is not None:
            self.metrics.closed(opened.done, opened.failure)
            _LOG.info("%s", opened.summary())

    def hear(self, ready: asyncio.Event) -> None:
        """Set `ready` once the scheduler's round has ended. Called from the scheduler's thread."""
        self._news.append(ready)

    def _wake(self) -> None:
        """Wake all turns with news in one call to the event loop: each call may switch threads."""
        if not self._news or self._loop is None:
            return
        news, self._news = self._news, []
        with suppress(RuntimeError):  # the event loop has ended, so no turn waits
            self._loop.call_soon_threadsafe(_set_all, news)

    def find(self, id: str) -> Open | None:
        """The open turn with this id; None if there is none."""
        return self._turns.get(id)

    async def responsive(self, seconds: float) -> bool:
        """Whether the scheduler's loop completes a round within `seconds`."""
        asked, end = time.monotonic(), time.monotonic() + seconds
        while time.monotonic() < end and self.thread.alive:
            with self.scheduler.arrived:
                self.scheduler.arrived.notify_all()
            await asyncio.sleep(0.01)
            if self.scheduler.last_round >= asked:
                return True
        return False


def _told(
    work: Generator[object, None, T], found: asyncio.Future[T], loop: asyncio.AbstractEventLoop
) -> Generator[None]:
    """Run `work` and set `found` to its result or error; stops if `found` is cancelled."""

    def tell(set: Callable[[Any], None], value: Any) -> None:
        with suppress(RuntimeError):  # the event loop has ended
            loop.call_soon_threadsafe(lambda: None if found.done() else set(value))

    try:
        yield
        while not found.cancelled():
            next(work)
            yield
    except StopIteration as end:
        tell(found.set_result, end.value)
    except GeneratorExit:
        stopped = ApiError(503, "the server stopped this request", code="shutting_down")
        tell(found.set_exception, stopped)
    except Exception as error:
        short = out_of_memory(error, 0, packed=True) if is_out_of_memory(error) else error
        tell(found.set_exception, short)


def _set_all(events: list[asyncio.Event]) -> None:
    for event in events:
        event.set()


class Open:
    """An open turn, used from the event loop."""

    def __init__(self, desk: Desk, id: str, ask: Ask, request: Request) -> None:
        self.desk, self.id, self.ask = desk, id, ask
        self._ready = asyncio.Event()
        self._look: asyncio.TimerHandle | None = None
        self.progress = (0, len(request.prompt))
        self.admitted = False
        self.began = time.perf_counter()
        self.done: Done | None = None
        self.failure: Exception | None = None
        self._called = False
        self._waiting: list[Event] = []
        self._last = time.monotonic()
        messages = ask.messages if ask.prompt is None and not ask.continues else None
        deltas = ask.stream
        self.turn = Turn(
            desk.model.runtime, request, deltas=deltas, messages=messages, on_ready=self._wake
        )

    def _wake(self) -> None:
        self.desk.hear(self._ready)

    async def admission(self) -> None:
        """Wait `ADMISSION_SECONDS` at most for the turn to begin. Raises its error if refused."""
        end = time.monotonic() + ADMISSION_SECONDS
        while not self.admitted and (left := end - time.monotonic()) > 0:
            self._waiting += await self._poll(left)

    async def _poll(self, seconds: float) -> list[Event]:
        """The new events, possibly none, after at most about `seconds`."""
        if self._look is None:  # shared by many tokens: a timer costs as much as a token's JSON
            soon = min(seconds, LOOK_SECONDS)
            self._look = asyncio.get_running_loop().call_later(soon, self._look_now)
        await self._ready.wait()
        self._ready.clear()
        events: list[Event] = []
        for event in self.turn.poll():
            self.admitted = True
            if isinstance(event, Reading):
                self.progress = (event.done, event.total)
            else:
                events.append(event)
        if self.turn.pending:
            self._ready.set()
        return events

    def _look_now(self) -> None:
        self._look = None
        self._ready.set()

    async def events(self) -> AsyncIterator[Event | None]:
        """The turn's events; None after `SILENCE_SECONDS` without any. Raises the turn's error."""
        try:
            async for event in self._heard():
                if isinstance(event, Done):
                    self._check(event)
                    self.done = event
                yield event
        except Exception as error:
            self.failure = error
            raise

    async def _heard(self) -> AsyncIterator[Event | None]:
        while True:
            left = self._last + SILENCE_SECONDS - time.monotonic()
            found = self._waiting or await self._poll(max(left, 0.001))
            self._waiting = []
            silent = time.monotonic() - self._last >= SILENCE_SECONDS
            if found or silent:
                self._last = time.monotonic()
            if not found and not self.turn.pending and not self.desk.thread.alive:
                self.desk.check_open()
            if silent and not found:
                yield None
            for event in found:
                if self._called and not isinstance(event, Done):
                    continue  # the request allows one call
                yield event
                if isinstance(event, Done):
                    return
                if isinstance(event, ToolCall) and self.ask.one_call:
                    self._called = True
                    self.turn.interrupt()

    def _check(self, done: Done) -> None:
        if done.finish_reason == "interrupted" and self.desk.draining and not self._called:
            raise ApiError(503, "the server is shutting down", code="shutting_down")

    def summary(self) -> str:
        """A line for the log: how the turn ended, tokens and seconds, but no text."""
        failed = "gone" if self.failure is None else f"failed ({type(self.failure).__name__})"
        end = failed if self.done is None else self.done.finish_reason
        turn, seconds = self.turn, time.perf_counter() - self.began
        read, cached = len(turn.request.prompt), turn.cached_tokens
        thought = turn.thinking_tokens
        said = f"{turn.used_tokens:,} generated ({thought:,} of them thinking)"
        return f"{self.id} {end}: {read:,} tokens read ({cached:,} cached), {said}, {seconds:.2f} s"

    def close(self) -> None:
        """End the turn, because no client listens; the rest of it is not computed."""
        if self._look is not None:
            self._look.cancel()
        if not self.turn.over:
            self.turn.interrupt()
        self.desk.forget(self)

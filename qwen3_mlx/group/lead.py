"""The first machine: it gathers the others, and announces every forward pass before it begins.

An announcement has the cache, the position and the tokens, so a cut, stop, trim or edit reaches the
others simply as the next forward pass. Sampled tokens are sent inside the graph. Passes begin in
the announced order on every machine.
"""

from __future__ import annotations

import atexit
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.errors import BackendError
from qwen3_mlx.group import port, versions
from qwen3_mlx.group.ending import NOTICED_S, broken, uninterrupted
from qwen3_mlx.group.line import Line, Message
from qwen3_mlx.group.plan import Plan, launched_by, note_status
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.rows import Together

T = TypeVar("T")
_JOIN_HINT = ("install the same versions on all", port.HINT)

GATHER_S = 30.0
"""Seconds in which every machine must connect."""
STUCK_S, SLOWEST, TOKEN_S = 10.0, 20, 0.1
"""A pass is stuck after `STUCK_S` or `SLOWEST` times the slowest pass, plus `TOKEN_S` per token."""


class Lead:
    """Rank 0 of a group; one per process."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.lines: dict[int, Line] = {}
        self._computing = threading.RLock()
        self._caches: dict[int, int] = {}
        self._numbers = self._count = 0
        self._last: tuple[int, mx.array | None] = (0, None)
        self._last_action = "nothing"
        self._begun: dict[int, tuple[float, int]] = {}
        self._done: dict[int, int] = {}
        self._slowest = 0.0
        self._ended = False
        self._replies, self._replied = dict[int, Message](), threading.Event()

    def gather(self, listening: socket.socket | None = None) -> None:
        """Wait for all others. Raises `BackendError` that names a missing or different machine."""
        address, _, number = self.plan.control.rpartition(":")
        try:
            door = listening or socket.create_server((address, int(number)))
        except OSError as error:
            what = f"can't listen on {self.plan.control}"
            raise BackendError(what, got=error.strerror, hint=port.HINT) from None
        until = time.monotonic() + GATHER_S
        with door, self._closed_on_error():
            while len(self.lines) < self.plan.size - 1:
                door.settimeout(max(until - time.monotonic(), 0.01))
                try:
                    connection, _ = door.accept()
                except TimeoutError:
                    raise self._missing() from None
                self._welcome(connection)
        atexit.register(self.close)
        threading.Thread(target=self._watch, name="group", daemon=True).start()

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BackendError:
            for line in self.lines.values():
                line.close()
            raise

    def _missing(self) -> BackendError:
        absent = [rank for rank in range(1, self.plan.size) if rank not in self.lines]
        names = ", ".join(map(self.plan.name, absent))
        hint = "is it on, reachable, and is qwen3-mlx installed there? its own words stand above"
        what = f"{names} did not answer within {GATHER_S:.0f} s"
        return BackendError(what, got=f"{len(self.lines) + 1} of {self.plan.size}", hint=hint)

    def _welcome(self, connection: socket.socket) -> None:
        """Admit a machine that knows the secret. Raises `BackendError` if its versions differ."""
        line = Line(connection, self.plan.secret)
        try:
            line.prove(welcome=True)
            hello = line.read_one()
        except (OSError, BackendError):
            line.close()
            return
        rank, hint = hello.get("rank"), None
        if not isinstance(rank, int) or not 0 < rank < self.plan.size or rank in self.lines:
            fault = f"rank {rank} is taken already" if rank in self.lines else f"no rank {rank}"
        else:
            fault = versions.difference(hello.get("versions"))
            hint, fault = _JOIN_HINT[not fault], fault or str(hello.get("fault") or "")
        if fault:
            line.send({"refused": fault})
            line.close()
            raise BackendError(f"machine {rank} can't join", got=fault, hint=hint)
        assert isinstance(rank, int)
        self.lines[rank] = line
        line.on_message = partial(self._on_message, rank)
        line.start(partial(self.fail, rank))  # now: it needs heartbeats while others still join

    def _on_message(self, rank: int, message: Message) -> None:
        if (done := message.get("done")) is not None:
            self._done[rank] = int(done)
            oldest = self._begun.get(int(done))
            if oldest:
                self._slowest = max(self._slowest, time.monotonic() - oldest[0])
            if self._done and len(self._done) == len(self.lines):
                slowest_done = min(self._done.values())
                for number in [n for n in list(self._begun) if n <= slowest_done]:
                    self._begun.pop(number, None)
        elif "fault" in message:
            self.fail(rank, str(message["fault"]))
        else:
            self._on_reply(rank, message)

    def _on_reply(self, rank: int, message: Message) -> None:
        self._replies[rank] = message
        self._replied.set()

    def ask(self, message: Message, own_part: Callable[[], Message]) -> dict[int, Message]:
        """Send a request to all, do this machine's part meanwhile, and collect the replies.

        Raises `BackendError` with the error of a machine that fails.
        """
        self._replies, self._replied = {}, threading.Event()
        self._last_action = str(message["do"])
        self._send(message)
        try:
            own_reply = own_part()
        except RuntimeError as error:
            self.await_loss(error)
            raise
        while len(self._replies) < len(self.lines):
            self._replied.wait(0.2)
            self._replied.clear()
        for rank, reply in sorted(self._replies.items()):
            if "error" in reply:
                raise BackendError(f"{self.plan.name(rank)}: {reply['error']}")
        return {0: own_reply, **self._replies}

    def join(self) -> None:
        """Make all machines join MLX's group; called once."""
        note_status("joining")

        def own_part() -> Message:
            group = mx.distributed.init(strict=True, backend=self.plan.backend)
            mx.eval(mx.distributed.all_sum(mx.ones((1,)), group=group))
            for line in self.lines.values():  # no thread could run while MLX connected
                line.last_heard = time.monotonic()
            return {"size": group.size()}

        self.ask({"do": "join"}, own_part)
        note_status("joined")

    def forward(
        self,
        compute: Callable[[mx.array], T],
        tokens: mx.array,
        cache: Sequence[KVCache | Together] | None,
    ) -> T:
        """Announce a pass, and start `compute(tokens)` on all machines. Raises `BackendError`."""
        with self._computing, uninterrupted():
            me = threading.get_ident()
            if self._last[0] not in (0, me) and self._last[1] is not None:
                mx.eval(self._last[1])  # streams of different threads aren't ordered
            drawn = tokens.shape[1] == 1
            message = self._announced(tokens, cache, drawn)
            self._send(message)
            if drawn and not self.plan.pipeline:
                tokens = mx.distributed.all_sum(tokens.astype(mx.uint32))
            out = compute(tokens)
            first = out[0] if isinstance(out, tuple) else out
            assert isinstance(first, mx.array)
            mx.async_eval(first)
            self._last = (me, first)
            return out

    def _announced(
        self, tokens: mx.array, cache: Sequence[KVCache | Together] | None, drawn: bool
    ) -> Message:
        self._count += 1
        self._begun[self._count] = (time.monotonic(), tokens.size)
        places: list[tuple[int, int]] = []
        if cache is not None:
            first = cache[0]
            rows = first.caches if isinstance(first, Together) else [first]
            places = [self._place(row) for row in rows]
        message: Message = {"do": "forward", "number": self._count, "caches": places}
        message["tokens"] = list(tokens.shape) if drawn or self.plan.pipeline else tokens.tolist()
        at = places[0][1] if places else 0
        self._last_action = f"{tokens.shape[1]} tokens at position {at}"
        return message | {"drawn": drawn}

    def _place(self, layer: KVCache) -> tuple[int, int]:
        """The number of the cache whose first layer this is, and its offset."""
        if layer.offset and id(layer) not in self._caches:
            hint = "keys and values that were saved are one machine's only"
            raise BackendError("a cache that the other machines don't have", hint=hint)
        return self._number(layer), layer.offset

    def _number(self, layer: KVCache) -> int:
        key = id(layer)
        if key not in self._caches:
            self._numbers += 1
            self._caches[key] = self._numbers
            weakref.finalize(layer, self._drop, key)
        return self._caches[key]

    def _drop(self, key: int) -> None:
        number = self._caches.pop(key, None)
        if number is not None and not self._ended:
            self._tell({"do": "drop", "cache": number})

    def mark(self, layers: Sequence[KVCache]) -> None:
        """`KVCache.mark` on every layer of every machine."""
        if layers and (number := self._caches.get(id(layers[0]))):
            self._tell({"do": "mark", "cache": number})

    def copy(self, source: Sequence[KVCache], target: Sequence[KVCache], count: int) -> None:
        """`engine.prefixes.copied` on every machine."""
        with self._computing:
            to = self._number(target[0])
            from_ = self._caches.get(id(source[0]), 0)
            self._send({"do": "copy", "from": from_, "to": to, "count": count})

    def _tell(self, message: Message) -> None:
        with self._computing:
            self._send(message)

    def _send(self, message: Message) -> None:
        for rank, line in self.lines.items():
            try:
                line.send(message)
            except OSError as error:
                self.fail(rank, f"its connection was lost ({error})")

    def _watch(self) -> None:
        """End the process if a pass is stuck or the launcher is gone."""
        launcher = launched_by()
        while not self._ended:
            time.sleep(0.5)
            if launcher is not None and launched_by() is None:
                self.fail(0, "qwen3-mlx launch has ended, which watched the group")
            oldest = min(list(self._begun.items()), default=None)
            if oldest is None:
                continue
            number, (since, tokens) = oldest
            took = time.monotonic() - since
            if took > max(STUCK_S, SLOWEST * self._slowest) + TOKEN_S * tokens:
                late = [r for r in self.lines if self._done.get(r, 0) < number]
                self.fail(late[0] if late else 0, f"a pass is stuck for {took:.0f} s")

    def await_loss(self, error: Exception) -> None:
        """If a pass failed because MLX lost a machine, wait for `fail` to end the process.

        A pass fails as soon as MLX's sockets break, often before the control line notices.
        """
        if str(error).startswith(f"[{self.plan.backend}]"):
            time.sleep(NOTICED_S)

    def fail(self, rank: int, why: str) -> None:
        """Report the failure and end this process, since no thread can end a waiting collective."""
        if self._ended:
            return
        self._ended = True
        broken(self.plan, rank, why, self._last_action)

    def close(self) -> None:
        """End the group: tell the others and close the connections."""
        if self._ended:
            return
        self._ended = True
        for line in self.lines.values():
            try:
                line.send({"do": "end"})
            except OSError:
                continue
        for line in self.lines.values():
            line.close()

"""A probe beside other sequences, one pass at a time: they wait for one pass, not for all."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator

from qwen3_mlx.engine.decision import Ask, Decision
from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.engine.probe import Found, passes
from qwen3_mlx.engine.side_work import begun
from qwen3_mlx.engine.task import Task


def probe_steps(
    task: Task,
    ask: Ask,
    guarded: Callable[[Task, Callable[[Task], None]], bool],
    obey: Callable[[Task, Decoder, Decision], None],
) -> Generator[object]:
    """A probe of `task`, as a generator; `obey` carries out the sequence's decision on its answer.

    Meanwhile the task is `probed` and generates nothing; an interrupt ends the probe.
    guarded: runs each pass and handles its errors.
    """
    steps = _ProbeSteps(task, ask, obey)
    task.probed = True
    steps.decoder.settle()
    return begun(_rounds(task, steps, guarded))


def _rounds(
    task: Task,
    steps: _ProbeSteps,
    guarded: Callable[[Task, Callable[[Task], None]], bool],
) -> Generator[None]:
    try:
        yield
        while task.decoder is steps.decoder and task.sequence.control.wish is None:
            if not guarded(task, steps.advance) or steps.over:
                return
            yield
    finally:
        if not steps.over:  # after `over`, the next probe may have begun
            task.probed = False


class _ProbeSteps:
    """The passes of one probe, and the seconds that they took."""

    def __init__(
        self, task: Task, ask: Ask, obey: Callable[[Task, Decoder, Decision], None]
    ) -> None:
        assert task.decoder is not None
        self.decoder, self._obey = task.decoder, obey
        cache = self.decoder.cache
        self._passes = passes(self.decoder.network, cache, ask, task.sequence.markers)
        self._seconds = 0.0
        self.over = False
        """Whether the sequence has received the result."""

    def advance(self, task: Task) -> None:
        """Compute the next pass; after the last one, pass the result to the sequence."""
        began = time.perf_counter()
        with self.decoder.cache.filling():
            found = self._next()
            self._seconds += time.perf_counter() - began
            if found is None:
                return
            task.probed, self.over = False, True
            self.decoder.ahead = found.ahead
            said = task.sequence.hear(found.answer, found.tokens, self._seconds)
            self._obey(task, self.decoder, said)

    def _next(self) -> Found | None:
        try:
            next(self._passes)
        except StopIteration as end:
            found: Found = end.value
            return found
        return None

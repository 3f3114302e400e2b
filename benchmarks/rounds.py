"""What a round of the scheduler costs the host, beyond the step that it is made for.

    python -m benchmarks.rounds [--model demo] [--rounds 200]

For 1 to 16 sequences: processor time of the scheduler's thread in a round, in microseconds, apart
for the step (building it and its draws, and handing them to the device) and for everything around
it (texts, events, caches, decisions). And of the server's event loop for the same events, its
sockets left out. Medians; the sizes come in another order in each of three passes. Processor time,
for the wall's is the device's, and other programs'.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import threading
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.joining import turn
from benchmarks.record import write
from qwen3_mlx.chat.turns import Turn, new_scheduler
from qwen3_mlx.engine import side_by_side
from qwen3_mlx.engine.scheduler import Scheduler
from qwen3_mlx.events import Answer
from qwen3_mlx.model import Qwen3, load
from qwen3_mlx.serve.answer import _pieces
from qwen3_mlx.serve.ask import ready
from qwen3_mlx.serve.chat_completions import Writer, read
from qwen3_mlx.serve.desk import Desk, Open

ROWS = (1, 2, 4, 8, 16)
BEAT_SECONDS = 0.003


class StepTime:
    """Processor time of the steps in this thread since it was last asked."""

    def __init__(self) -> None:
        self.spent, self._step = 0.0, side_by_side.step_together
        side_by_side.step_together = self._timed  # type: ignore[assignment]

    def _timed(self, *given: Any) -> list[int]:
        began = time.thread_time()
        try:
            return self._step(*given)
        finally:
            self.spent += time.thread_time() - began


def running(model: Qwen3, rows: int) -> tuple[Scheduler, list[Turn]]:
    """So many sequences that answer."""
    scheduler = new_scheduler(model.runtime, parallel=rows, prefix_bytes=0)
    turns = [turn(model, f"What is {n} + 7?", n, 3000) for n in range(rows)]
    for one in turns:
        scheduler.submit(one.task)
    while not all(one.generated_tokens > 10 for one in turns):
        scheduler.round()
    return scheduler, turns


def rounds(model: Qwen3, rows: int, count: int, steps: StepTime) -> dict[str, list[float]]:
    """Microseconds of each of `count` rounds."""
    scheduler, turns = running(model, rows)
    found: dict[str, list[float]] = {"step": [], "around": []}
    for _ in range(count):
        steps.spent, began = 0.0, time.thread_time()
        scheduler.round()
        spent = time.thread_time() - began
        for one in turns:
            one.poll()
        found["step"].append(1e6 * steps.spent)
        found["around"].append(1e6 * (spent - steps.spent))
    return found


class _Nobody:
    """Computes nothing: the events come from elsewhere."""

    alive, degraded = True, False


async def event_loop(model: Qwen3, rows: int, count: int) -> float:
    """Microseconds of the event loop in a round in which each of so many streams gets a piece."""
    desk = Desk(model, _Nobody(), _Nobody())  # type: ignore[arg-type]
    asked = {"model": "any", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    desk._loop, ask = asyncio.get_running_loop(), read(asked)
    streams = [Open(desk, str(n), ask, ready(model.runtime, ask)) for n in range(rows)]

    async def listen(stream: Open) -> None:
        async for _ in _pieces(stream, Writer(stream.id, "any", ask)):
            pass

    def say() -> None:
        for _ in range(count):
            for one in streams:
                one.turn._publish(Answer(" word"))
            desk._wake()
            time.sleep(BEAT_SECONDS)

    listeners = [asyncio.create_task(listen(stream)) for stream in streams]
    began, thread = time.thread_time(), threading.Thread(target=say)
    thread.start()
    while thread.is_alive():
        await asyncio.sleep(0.1)
    spent = time.thread_time() - began
    for one in listeners:
        one.cancel()
    return 1e6 * spent / count


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rounds", type=int, default=200)
    asked = parser.parse_args(given)
    model, steps, draw = load(asked.model), StepTime(), random.Random(0)
    found: dict[int, dict[str, list[float]]] = {}
    for _ in range(3):
        for rows in draw.sample(ROWS, len(ROWS)):
            mine = found.setdefault(rows, {"step": [], "around": [], "event_loop": []})
            for name, values in rounds(model, rows, asked.rounds // 3, steps).items():
                mine[name] += values
            mine["event_loop"].append(asyncio.run(event_loop(model, rows, asked.rounds)))
    results = {}
    for rows in ROWS:
        results[rows] = {name: statistics.median(values) for name, values in found[rows].items()}
        print(rows, {name: round(value) for name, value in results[rows].items()})
    print(write("rounds", results))


if __name__ == "__main__":
    main()

"""How long sequences that answer wait for a token while a long prompt joins them.

python -m benchmarks.joining [MODEL [TOKENS [ROWS]]]

On a GPU whose kernels were proven before (`qwen3-mlx doctor --prove MODEL`) it waits until those of
rows are compiled.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

from qwen3_mlx.chat.request import prepare
from qwen3_mlx.chat.turns import Turn, new_scheduler
from qwen3_mlx.engine.scheduler import Scheduler
from qwen3_mlx.model import Qwen3, load
from qwen3_mlx.options import GenerationOptions

COMPILED_SECONDS, REST_SECONDS = 90.0, 2.0
"""For a GPU's kernels, at most; and for a rest in which they are compiled, at least."""
TEXT = "sort the numbers 5, 2 and 9 please. "
STEPS_BEFORE = 100


def turn(model: Qwen3, text: str, seed: int, max_tokens: int) -> Turn:
    """A turn that ends by its length alone."""
    endless = dict.fromkeys(model.tokenizer.eos_ids, -100.0)
    asked = {"seed": seed, "max_tokens": max_tokens, "thinking": False, "logit_bias": endless}
    messages = [{"role": "user", "content": text}]
    return Turn(model.runtime, prepare(model.runtime, messages, GenerationOptions(**asked)))  # type: ignore[arg-type]


def gaps(act: Callable[[], object], ended: Callable[[], bool]) -> list[float]:
    """Milliseconds of each round until `ended`: every running sequence gets a token in it."""
    found = []
    while not ended():
        began = time.perf_counter()
        act()
        found.append(1e3 * (time.perf_counter() - began))
    return found


def warm_up(model: Qwen3, scheduler: Scheduler, rows: int) -> str:
    """Answer with so many sequences until a step is one pass; returns the passes of a step."""
    until, counts = time.perf_counter() + COMPILED_SECONDS, scheduler.counts
    while True:
        passes, steps = counts.passes, counts.steps
        turns = [turn(model, f"What is {n} + 6?", n, 16) for n in range(rows)]
        for one in turns:
            scheduler.submit(one.task)
        while scheduler.busy:
            scheduler.round()
            for one in turns:
                one.poll()
        each = (counts.passes - passes) / (counts.steps - steps)
        if each < 1.05 or time.perf_counter() > until:
            while scheduler.round():  # what a server does before somebody comes
                pass
            return f"{each:.2f} passes a step"
        resting = time.perf_counter() + REST_SECONDS
        while scheduler.round() or time.perf_counter() < resting or scheduler.side_by_side.trying:
            time.sleep(0.005)  # kernels are proven and compiled


def said(name: str, found: list[float]) -> str:
    late = sorted(found)[int(0.99 * len(found))]
    middle, longest = statistics.median(found), max(found)
    return (
        f"{name}: {len(found)} rounds, median {middle:.1f} ms, 99 % {late:.1f}, max {longest:.1f}"
    )


def main() -> None:
    """Print the rounds before the prompt comes and while it is read."""
    name, tokens, rows = [*sys.argv[1:], *("demo", "8192", "8")[len(sys.argv) - 1 :]]
    model = load(name, context=max(int(tokens) * 2, 4096))
    scheduler = new_scheduler(model.runtime, parallel=int(rows) + 1, prefix_bytes=0)
    print(warm_up(model, scheduler, int(rows)))
    writers = [turn(model, f"What is {n} + 7?", n, 2 * int(tokens) - 100) for n in range(int(rows))]

    def act() -> None:
        scheduler.round()
        for writer in writers:
            writer.poll()

    for writer in writers:
        scheduler.submit(writer.task)
    gaps(act, lambda: all(writer.generated_tokens > 10 for writer in writers))
    until = writers[0].generated_tokens + STEPS_BEFORE
    print(said("before", gaps(act, lambda: writers[0].generated_tokens >= until)))
    each = len(model.tokenizer.encode(TEXT * 50)) / 50
    long = turn(model, TEXT * int(int(tokens) / each), 1, 4)
    scheduler.submit(long.task)
    began = time.perf_counter()
    found = gaps(act, lambda: long.generated_tokens > 0)
    took = time.perf_counter() - began
    print(said(f"while {len(long.request.prompt):,} tokens are read", found) + f", {took:.1f} s")


if __name__ == "__main__":
    main()

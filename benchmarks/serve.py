"""Our server against mlx-lm's, on the same weights in one run, measured from outside.

    python -m benchmarks.serve [MODEL_DIRECTORY] [--repeats 3] [--prompt 32000] [--requests 1000]
    python -m benchmarks.serve --shape 8b --tokenizer DIR --clients 1 8 16 --tokens 128

Both run as processes; one is measured while the other is idle, in a shuffled order, and medians of
the repeats are kept. Ours is measured once it steps all sequences in one pass: a GPU's kernels of
rows are tried and compiled while it runs, and until then each sequence has a pass of its own, which
is several times slower. Without a directory it is the bundled demo, whose context bounds the long
prompt; with `--shape` a published size in 4 bits, of random weights. What is measured: tokens a
second at 1 to 16 clients; the first token of short prompts that come behind a long one; the longest
gap in a running stream while a long prompt is read; memory after many requests; and seconds until
the process is idle once a client has gone.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.http_client import Heard, post
from benchmarks.record import write
from benchmarks.served import Subject, random_model, subjects_of
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.text import Tokenizer

DEMO = Path(__file__).parents[1] / "qwen3_mlx" / "demo"
CLIENTS = (1, 2, 4, 8, 16)
ONE_PASS = 1.05
"""Passes of a step, at most, that count as one."""
REST_SECONDS = 5.0
WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world")


def words(count: int, seed: float) -> str:
    """So many words, other ones for every seed, so that no prefix is shared."""
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(count))


def words_in(tokenizer: Tokenizer, tokens: int) -> int:
    """How many words have so many tokens."""
    return int(tokens / len(tokenizer.encode(words(1000, 0))) * 1000)


async def answered(subject: Subject, body: dict[str, Any]) -> Heard:
    """The answer, which must be one."""
    heard = await post(subject.port, body)
    assert heard.status == 200, f"{subject.name} said {heard.status}: {heard.body[:300]!r}"
    return heard


async def throughput(subject: Subject, clients: int, tokens: int, seed: float) -> float:
    """Tokens a second of all clients together."""
    bodies = [subject.body(words(20, seed + n), tokens) for n in range(clients)]
    began = time.perf_counter()
    heard = await asyncio.gather(*(answered(subject, body) for body in bodies))
    return sum(one.tokens or len(one.times) for one in heard) / (time.perf_counter() - began)


async def behind_long(subject: Subject, long: int, seed: float) -> list[float]:
    """Seconds to the first token of eight short prompts, sent right behind a long one."""
    ahead = asyncio.create_task(answered(subject, subject.body(words(long, seed), 4)))
    await asyncio.sleep(0.1)
    short = (answered(subject, subject.body(words(10, seed + n + 1), 4)) for n in range(8))
    heard: list[Heard] = await asyncio.gather(*short)
    await ahead
    return [one.first for one in heard]


async def gap_beside_long(subject: Subject, long: int, seed: float) -> float:
    """The longest silence in a running stream while a long prompt is read."""
    running = asyncio.create_task(answered(subject, subject.body(words(10, seed), 400)))
    await asyncio.sleep(0.5)
    await answered(subject, subject.body(words(long, seed + 1), 2))
    return (await running).gap


async def until_idle(subject: Subject, stream: bool, seed: float) -> float:
    """Seconds from a client's leaving until the process rests (at most 20)."""
    body = subject.body(words(10, seed), 3000) | {"stream": stream}
    await post(subject.port, body, leave_after=5 if stream else 10**9, wait=2.0)
    began, used = time.perf_counter(), subject.cpu()
    while time.perf_counter() - began < 20:
        await asyncio.sleep(0.25)
        before, used = used, subject.cpu()
        if used - before < 0.05:
            return max(time.perf_counter() - began - 0.25, 0.0)
    return 20.0


async def memory_after(subject: Subject, requests: int) -> dict[str, int]:
    """Resident bytes before and after so many requests, eight at a time, each of its own text."""
    before, gate = subject.memory(), asyncio.Semaphore(8)

    async def one(n: int) -> None:
        async with gate:
            await answered(subject, subject.body(words(60, n + 0.5), 4))

    await asyncio.gather(*(one(n) for n in range(requests)))
    return {"before": before, "after": subject.memory()}


Measure = Callable[..., Coroutine[Any, Any, Any]]


def measures(clients: Sequence[int], long: int, tokens: int) -> dict[str, Measure]:
    """What is repeated, by its name in the record."""
    found: dict[str, Measure] = {}
    for n in clients:
        found[f"tokens_per_second_{n}"] = partial(throughput, clients=n, tokens=tokens)
    found["first_token_behind_long_s"] = partial(behind_long, long=long)
    found["gap_beside_long_s"] = partial(gap_beside_long, long=long)
    found["idle_after_stream_s"] = partial(until_idle, stream=True)
    found["idle_after_whole_s"] = partial(until_idle, stream=False)
    return found


def warm(subject: Subject, seconds: float) -> dict[str, float]:
    """Ask until kernels are tried and steps take one pass each; when that was, and the passes."""
    began, clients = time.perf_counter(), (2, 4, 8, 16)
    while True:
        _, before = subject.passes_per_step()
        for n in clients:
            asyncio.run(throughput(subject, n, 16, -1))
        passes, _ = subject.passes_per_step(before)
        taken = time.perf_counter() - began
        if (passes < ONE_PASS and not subject.trying()) or taken > seconds:
            return {"seconds": taken, "passes_per_step": passes}
        rest(subject, seconds - taken)


def rest(subject: Subject, seconds: float) -> None:
    """Ask nothing while kernels are tried: their steps are timed while nobody asks."""
    time.sleep(REST_SECONDS)
    until = time.perf_counter() + seconds - REST_SECONDS
    while subject.trying() and time.perf_counter() < until:
        time.sleep(0.5)


def measure(subjects: list[Subject], repeats: int, plan: dict[str, Measure]) -> None:
    draw = random.Random(0)
    for repeat in range(repeats):
        for name, act in plan.items():
            for subject in draw.sample(subjects, len(subjects)):
                value = asyncio.run(act(subject, seed=1000 * repeat + len(name)))
                subject.found.setdefault(name, []).append(value)
                shown = value if not isinstance(value, list) else max(value)
                print(f"{name:28} {subject.name:10} {shown:9.3f}", file=sys.stderr)


def summary(subject: Subject) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, values in subject.found.items():
        if isinstance(values[0], list):
            every = sorted(value for one in values for value in one)
            found[name] = {"p50": statistics.median(every), "p99": every[int(0.99 * len(every))]}
        else:
            found[name] = statistics.median(values)
    return found


def asked_for() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("model", nargs="?", type=Path, default=DEMO)
    parser.add_argument("--shape", help="random weights of this published size, such as 8b")
    parser.add_argument("--tokenizer", type=Path, help="a folder with its tokenizer's files")
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument("--only", default="", help="what has this text in its name")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=32_000, help="tokens of the long prompt")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--requests", type=int, default=1000, help="before memory is read; or 0")
    parser.add_argument("--warm", type=float, default=300, help="seconds for one pass a step")
    parser.add_argument("--parallel", type=int, default=16)
    asked = parser.parse_args()
    if asked.shape and not asked.tokenizer:
        parser.error("--shape needs --tokenizer DIR")
    return asked


def main() -> None:
    asked = asked_for()
    with tempfile.TemporaryDirectory() as folder:
        if asked.shape:
            asked.model = random_model(asked.shape, asked.tokenizer, Path(folder))
        compare(asked)


def compare(asked: argparse.Namespace) -> None:
    """Measure both servers of `asked.model`, and write the record."""
    tokens = min(asked.prompt, Qwen3Config.from_dir(asked.model).context - 600)
    long = words_in(Tokenizer.from_dir(asked.model), tokens)
    plan = measures(asked.clients, long, asked.tokens)
    plan = {name: act for name, act in plan.items() if asked.only in name}
    subjects = subjects_of(asked.model, asked.parallel)
    results: dict[str, Any] = {"model": asked.shape or asked.model.name}
    results |= {"long_prompt_tokens": tokens, "answer_tokens": asked.tokens}
    try:
        for subject in subjects:
            results[subject.name] = {"start_s": subject.start()}
            results[subject.name]["warm"] = warm(subject, asked.warm)
            print(f"{subject.name}: {results[subject.name]}", file=sys.stderr)
        measure(subjects, asked.repeats, plan)
        for subject in subjects:
            results[subject.name] |= summary(subject)
            if asked.requests:
                kept = asyncio.run(memory_after(subject, asked.requests))
                results[subject.name]["memory_bytes"] = kept
    finally:
        for subject in subjects:
            subject.stop()
        print(write("serve", results))


if __name__ == "__main__":
    main()

"""The full-screen chat in a pseudo-terminal: how soon, how smooth, and at what cost.

    uv run python -m benchmarks.tui

Start to a ready prompt, Enter to the first painted token, the cost of painting
(`benchmarks.painting`), "answer now" against what it may take, updates a second on an answer of
20,000 tokens, idle CPU. A quarter of an hour.
"""

from __future__ import annotations

import re
import statistics
import time
from itertools import pairwise
from typing import Any

from benchmarks import painting
from benchmarks.answers import LONG
from benchmarks.painting import Speaker, terminal
from benchmarks.record import summary, write
from benchmarks.terminal import Terminal
from benchmarks.tui_programs import LONG_TOKENS, PROMPTS


def start() -> dict[str, float]:
    """Seconds from process start: to a prompt that takes letters, and to the model being there."""
    chat = terminal("chat", "demo")
    try:
        chat.until("/help lists", 30)
        chat.send("q")
        ready = chat.until("q") - chat.began
        chat.until("0/4.1k", 30)
        return {"prompt": ready, "model": time.perf_counter() - chat.began}
    finally:
        chat.close()


def first() -> list[float]:
    """Seconds from Enter to the first painted token."""
    chat = Speaker("chat", "demo", "--seed", "1")
    try:
        return [first_painted(chat.terminal, chat.turn(prompt)) for prompt in PROMPTS * 2][1:]
    finally:
        chat.terminal.close()


def first_painted(screen: Terminal, turn: dict[str, Any]) -> float:
    """Seconds from Enter to a row that begins as this turn's thought: a heading is no token.

    Other thoughts on the screen are folded, and have no rows.
    """
    start = re.escape(turn["thought"][:1])
    return screen.when(rf"^ *│ {start}") - float(turn["pressed"])


def answer_now() -> dict[str, list[float]]:
    """Seconds from the key to the first answer token: painted, and in the engine; its bound."""
    chat, painted = Speaker("chat", "demo", "--seed", "1"), []
    try:
        for prompt in PROMPTS:
            chat.terminal.send("/clear\r")  # no other answer is on the screen
            chat.terminal.drain(0.5)
            painted.append(_cut(chat, prompt))
    finally:
        chat.terminal.close()
    bare = terminal("now")
    try:
        bare.until("done", 60)
        pairs = re.findall(rb"took ([\d.]+) of ([\d.]+)", bare.text)
    finally:
        bare.close()
    took, bound = ([float(pair[n]) for pair in pairs] for n in (0, 1))
    return {"painted": painted, "took": took, "bound": bound}


def _cut(chat: Speaker, prompt: str) -> float:
    """Answer `prompt` now, in its thought; returns the seconds from the key to the answer."""
    pressed = 0.0

    def press() -> None:
        nonlocal pressed
        chat.terminal.until("▾ thinking")
        chat.terminal.drain(0.2)
        pressed = time.perf_counter()
        chat.terminal.send("\x03")

    turn = chat.turn(prompt, press)
    start = re.escape(turn["answer"][:1])
    return chat.terminal.when(rf"^ {start}") - pressed


def long_answer(kind: str) -> dict[str, float]:
    """Updates a second while 20,000 tokens come: over all, and in the worst second."""
    chat = terminal("long", kind)
    try:
        chat.until("/help lists", 30)
        chat.drain(1.0)
        chat.send("go\r")
        chat.until("answering")
        chat.frames.clear()
        chat.until("THE END", 300)
        frames = chat.frames
        gaps = [b - a for a, b in pairwise(frames)]
        seconds = [0] * (int(frames[-1] - frames[0]) + 1)
        for frame in frames:
            seconds[int(frame - frames[0])] += 1
        took = frames[-1] - frames[0]
        return {
            "updates_per_s": len(frames) / took,
            "worst_second": min(seconds[:-1]),
            "longest_gap_s": max(gaps),
            "tokens_per_s": LONG_TOKENS / took,
        }
    finally:
        chat.close()


def idle(seconds: float = 10) -> float:
    """The share of one core that an idle chat takes."""
    chat = terminal("chat", "demo")
    try:
        chat.until("0/4.1k", 30)
        chat.drain(2)
        before = chat.cpu_seconds()
        chat.drain(seconds)
        return (chat.cpu_seconds() - before) / seconds
    finally:
        chat.close()


def main(rounds: int = 4) -> None:
    """Measure, print and write the record."""
    samples: dict[str, list[float]] = {"prompt": [], "model": []}
    for _ in range(rounds):
        for name, value in start().items():
            samples[name].append(value)
    costs = painting.measure(painting.BLOCKS)
    samples |= {"first": first()} | costs
    results: dict[str, Any] = {name: summary(values) for name, values in samples.items()}
    now = answer_now()
    results["answer now, painted"] = summary(now["painted"])
    results["answer now, of its bound"] = summary(
        [took / bound for took, bound in zip(now["took"], now["bound"], strict=True)]
    ) | {"seconds": now["took"], "bound_seconds": now["bound"]}
    results |= {f"long, {kind}": long_answer(kind) for kind in LONG}
    results["idle"] = idle()
    print(f"start to a prompt that takes letters  {results['prompt']['median']:.2f} s")
    print(f"start to the demo loaded              {results['model']['median']:.2f} s")
    print(f"Enter to the first painted token      {1000 * results['first']['median']:.0f} ms")
    painting.show(costs)
    print(
        f"answer now, painted                   {1000 * statistics.median(now['painted']):.0f} ms;"
        f" in the engine {results['answer now, of its bound']['median']:.2f} of one prefill of the"
        " stop text and two steps"
    )
    for kind in LONG:
        print(
            f"20,000 tokens of {kind:20} "
            + ", ".join(f"{name} {value:.2f}" for name, value in results[f"long, {kind}"].items())
        )
    print(f"idle CPU                              {100 * results['idle']:.2f} %")
    print(write("tui", results))


if __name__ == "__main__":
    main()

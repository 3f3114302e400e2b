"""The full-screen chat in a pseudo-terminal: how soon, how smooth, and at what cost.

    uv run python -m benchmarks.tui

Start to a ready prompt, Enter to the first painted token, the cost of painting against decoding
alone in the same kind of process, "answer now" against what it may take, updates a second on an
answer of 20,000 tokens, idle CPU. Five minutes.
"""

from __future__ import annotations

import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from benchmarks.answers import LONG
from benchmarks.record import summary, write
from benchmarks.terminal import Terminal

PROMPTS = [
    f"What is {a} * {b}?"
    for a, b in ((517, 23), (348, 19), (931, 77), (264, 58), (592, 35), (713, 46), (825, 64))
]
"""Each is thought about for some 250 tokens."""
LONG_TOKENS, LONG_RATE = 20_000, 1000


def _chat(*mode: str) -> Terminal:
    home = tempfile.mkdtemp()
    command = [sys.executable, "-m", "benchmarks.tui", *mode]
    return Terminal(command, {"QWEN3_MLX_HOME": home, "HF_HUB_OFFLINE": "1"})


def start() -> dict[str, float]:
    """Seconds from process start: to a prompt that takes letters, and to the model being there."""
    terminal = _chat("chat", "demo")
    try:
        terminal.until("/help lists", 30)
        terminal.send("q")
        ready = terminal.until("q") - terminal.began
        terminal.until("0/4.1k", 30)
        return {"prompt": ready, "model": time.perf_counter() - terminal.began}
    finally:
        terminal.close()


def painting(pairs: int) -> dict[str, list[float]]:
    """Seconds from Enter to the first painted token, and decode tok/s with a screen and without.

    Two processes hold the same conversation turn by turn, which of them first by lot; each waits
    while the other speaks. A pair is one turn in both.
    """
    shown, bare = _chat("chat", "demo", "--seed", "1"), _chat("decode")
    samples: dict[str, list[float]] = {"first": [], "shown": [], "bare": []}
    try:
        shown.until("0/4.1k", 30)
        bare.until("ready", 30)
        for number in range(-2, pairs):  # the first two compile
            prompt = PROMPTS[number % len(PROMPTS)]
            first, painted, decoded = 0.0, 0.0, 0.0
            for terminal in random.Random(number).sample([shown, bare], 2):
                if terminal is shown:
                    first, painted = _painted(shown, prompt)
                else:
                    decoded = _decoded(bare, prompt)
            if number >= 0:
                samples["first"].append(first)
                samples["shown"].append(painted)
                samples["bare"].append(decoded)
        return samples
    finally:
        shown.close()
        bare.close()


def _painted(terminal: Terminal, prompt: str) -> tuple[float, float]:
    terminal.send(prompt)
    terminal.drain(0.3)
    pressed = time.perf_counter()
    terminal.send("\r")
    first = terminal.until("▾ thinking") - pressed
    terminal.until("▸ thought")
    terminal.drain(1.0)  # the answer, the last status, and the background's work
    return first, float(re.findall(rb"(\d+) tok/s", terminal.text)[-1])


def _decoded(terminal: Terminal, prompt: str) -> float:
    terminal.send(f"{prompt}\r")
    terminal.until("tok/s")
    terminal.drain(0.3)
    return float(re.findall(rb"([\d.]+) tok/s", terminal.text)[-1])


def answer_now() -> dict[str, list[float]]:
    """Seconds from the key to the first answer token: painted, and in the engine; its bound."""
    terminal = _chat("chat", "demo", "--seed", "1")
    painted = []
    try:
        terminal.until("0/4.1k", 30)
        for prompt in PROMPTS:
            terminal.send(f"{prompt}\r")
            terminal.until("▾ thinking")
            terminal.drain(0.1)
            pressed = time.perf_counter()
            terminal.send("\x03")
            painted.append(terminal.until("cut by you") - pressed)
            terminal.drain(1.0)
    finally:
        terminal.close()
    terminal = _chat("now")
    try:
        terminal.until("done", 60)
        pairs = re.findall(rb"took ([\d.]+) of ([\d.]+)", terminal.text)
    finally:
        terminal.close()
    took, bound = ([float(pair[n]) for pair in pairs] for n in (0, 1))
    return {"painted": painted, "took": took, "bound": bound}


def long_answer(kind: str) -> dict[str, float]:
    """Updates a second while 20,000 tokens come: over all, and in the worst second."""
    terminal = _chat("long", kind)
    try:
        terminal.until("/help lists", 30)
        terminal.drain(1.0)
        terminal.send("go\r")
        terminal.until("answering")
        terminal.frames.clear()
        terminal.until("THE END", 300)
        frames = terminal.frames
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
        terminal.close()


def idle(seconds: float = 10) -> float:
    """The share of one core that an idle chat takes."""
    terminal = _chat("chat", "demo")
    try:
        terminal.until("0/4.1k", 30)
        terminal.drain(2)
        before = terminal.cpu_seconds()
        terminal.drain(seconds)
        return (terminal.cpu_seconds() - before) / seconds
    finally:
        terminal.close()


def main(rounds: int = 4, pairs: int = 40) -> None:
    """Measure, print and write the record."""
    samples: dict[str, list[float]] = {"prompt": [], "model": [], "first": [], "cost": []}
    for _ in range(rounds):
        for name, value in start().items():
            samples[name].append(value)
    rates = painting(pairs)
    samples["first"] = rates["first"]
    samples["cost"] = [
        1 - shown / bare for shown, bare in zip(rates["shown"], rates["bare"], strict=True)
    ]
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
    low, _, high = statistics.quantiles(samples["cost"], n=4)
    print(
        f"painting, of decode speed             {100 * results['cost']['median']:.1f} %,"
        f" half of {pairs} pairs between {100 * low:.1f} and {100 * high:.1f}"
    )
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


# what runs in the terminal


def _play(kind: str) -> None:
    from qwen3_mlx.cli.tui.app import Chat, Start
    from qwen3_mlx.events import Answer, Event
    from qwen3_mlx.options import GenerationOptions
    from tests.fakes import FakeModel

    def script() -> Iterator[Event]:
        began = time.perf_counter()
        for number, text in zip(range(LONG_TOKENS), LONG[kind](), strict=False):
            time.sleep(max(began + number / LONG_RATE - time.perf_counter(), 0))
            yield Answer(text)
        yield Answer("\n```\n\nTHE END")

    model: Any = FakeModel([])
    model._script = iter([script()])
    Chat(Start("demo", lambda _name, _progress: model, GenerationOptions())).run()


def _decode() -> None:
    from qwen3_mlx import Done, load

    session = load("demo").session(seed=1)
    print("ready", flush=True)
    for prompt in sys.stdin:
        for event in session.send(prompt.strip()):
            if isinstance(event, Done):
                print(f"{event.stats.decode_tps:.1f} tok/s", flush=True)


def _now() -> None:
    from qwen3_mlx import Answer, Thinking, load
    from qwen3_mlx.engine.prefill import prefill
    from qwen3_mlx.options import STOP_TEXT

    model = load("demo")
    stop = model.tokenizer.encode(STOP_TEXT)
    for number, prompt in enumerate(["What is 12 * 34?", *PROMPTS]):
        session = model.session(seed=1)
        turn, times = session.send(prompt), [time.perf_counter()]
        for event in turn:
            times.append(time.perf_counter())
            if isinstance(event, Thinking) and len(times) > 40:
                break
        step = statistics.median(b - a for a, b in pairwise(times[1:]))
        pressed = time.perf_counter()
        turn.interrupt("answer")
        next(event for event in turn if isinstance(event, Answer))
        took = time.perf_counter() - pressed
        turn.close()
        cached = len(session.cache.tokens)
        began = time.perf_counter()
        logits = prefill(model.network, stop, session.cache, chunk=2048)
        assert logits is not None
        logits.tolist()
        bound = time.perf_counter() - began + 2 * step
        assert len(session.cache.tokens) == cached + len(stop)
        if number:  # the first one compiles
            print(f"took {took:.5f} of {bound:.5f}", flush=True)
    print("done", flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["chat", *_]:
            from qwen3_mlx.cli import main as command

            command()
        case ["decode"]:
            _decode()
        case ["now"]:
            _now()
        case ["long", kind]:
            _play(kind)
        case _:
            main()

"""What the full-screen chat's painting costs of decode speed.

    uv run python -m benchmarks.painting [turns]

Two ways. *Stretches*: within a turn some tokens are painted and as many are held back from the
screen, so what is compared lies a third of a second apart in one process, and the middle stretch
is compared with those on both its sides. *Pairs*: the same turn in the chat, and in a process
that only decodes. Times are the decoding thread's own.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.terminal import Terminal
from benchmarks.tui_programs import PROMPTS

LONG = 1000
"""Tokens of a turn in stretches."""


def terminal(*mode: str, **env: str) -> Terminal:
    """A program of `benchmarks.tui_programs`, with a home of its own."""
    command = [sys.executable, "-m", "benchmarks.tui_programs", *mode]
    return Terminal(command, {"QWEN3_MLX_HOME": tempfile.mkdtemp(), "HF_HUB_OFFLINE": "1", **env})


class Speaker:
    """A program that takes prompts, and reports of each turn how it went."""

    def __init__(self, *mode: str) -> None:
        self._report, self._turns = Path(tempfile.mkdtemp()) / "report", 0
        self.terminal = terminal(*mode, REPORT=str(self._report))
        self.terminal.until("ready" if mode == ("decode",) else "0/4.1k", 30)

    def turn(self, prompt: str, meanwhile: Callable[[], object] = lambda: None) -> dict[str, Any]:
        """Send `prompt`, then do what is to be done `meanwhile`; returns the report of the turn."""
        self.terminal.send(prompt)
        self.terminal.drain(0.3)
        pressed = time.perf_counter()
        self.terminal.send("\r")
        meanwhile()
        self._turns += 1
        while len(reports := self._reports()) < self._turns:
            if time.perf_counter() > pressed + 60:
                raise TimeoutError(f"{prompt!r} has no end: {self.terminal.text[-2000:]!r}")
            self.terminal.drain(0.05)
        self.terminal.drain(0.5)  # the last frames, and the background's work
        report: dict[str, Any] = json.loads(reports[-1])
        return report | {"pressed": pressed}

    def _reports(self) -> list[str]:
        return self._report.read_text().split("\n")[:-1] if self._report.exists() else []


def stretches(turns: int) -> list[float]:
    """The share of decode speed that painting took in each turn.

    A stretch is compared with the mean of the two around it, which are of the other kind; the
    median of a turn's doesn't hear the machine stop for a moment.
    """
    chat, costs = Speaker("stretches", "demo", "--seed", "1", "--max-tokens", str(LONG)), []
    try:
        for number in range(-1, turns):  # the first one compiles
            chat.terminal.send("/clear\r")
            chat.terminal.drain(0.3)
            seconds = chat.turn(PROMPTS[number % len(PROMPTS)])["stretches"]
            threes = zip(seconds, seconds[1:], seconds[2:], strict=False)
            if number >= 0:
                costs.append(statistics.median(_cost(*three) for three in threes))
        return costs
    finally:
        chat.terminal.close()


def _cost(before: list[Any], stretch: list[Any], after: list[Any]) -> float:
    (painted, here), around = stretch, (before[1] + after[1]) / 2
    return 1 - around / here if painted else 1 - here / around


def pairs(count: int) -> dict[str, list[float]]:
    """Decode tok/s with a screen and without, and what of a core the interface's thread took.

    Two processes hold the same conversation, which of them first by lot; each waits while the
    other speaks.
    """
    shown, bare = Speaker("chat", "demo", "--seed", "1"), Speaker("decode")
    samples: dict[str, list[float]] = {"shown": [], "bare": [], "interface": []}
    try:
        for number in range(-2, count):
            prompt = PROMPTS[number % len(PROMPTS)]
            turns = {}
            for speaker in random.Random(number).sample([shown, bare], 2):
                turns[speaker] = speaker.turn(prompt)
            if number >= 0:
                samples["shown"].append(turns[shown]["tps"])
                samples["bare"].append(turns[bare]["tps"])
                seconds = turns[shown]["tokens"] / turns[shown]["tps"]
                samples["interface"].append(turns[shown]["interface_cpu"] / seconds)
        return samples
    finally:
        shown.terminal.close()
        bare.terminal.close()


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the median lies with 95 % confidence, whatever the values' distribution."""
    ranked, count = sorted(values), len(values)
    rank = max(math.floor((count - 1.96 * math.sqrt(count)) / 2), 0)
    return ranked[rank], ranked[-1 - rank]


def described(name: str, values: Sequence[float]) -> str:
    """A line about `values` in percent."""
    low, high = interval(values)
    return (
        f"{name:38}{100 * statistics.median(values):.1f} %, with 95 % confidence between"
        f" {100 * low:.1f} and {100 * high:.1f} ({len(values)} of them)"
    )


def measure(turns: int, count: int) -> dict[str, list[float]]:
    """Both ways: `turns` in stretches, `count` pairs."""
    apart, within = pairs(count), stretches(turns)
    across = [1 - a / b for a, b in zip(apart["shown"], apart["bare"], strict=True)]
    return {"cost": within, "cost, pairs": across, "interface": apart["interface"]}


def show(samples: dict[str, list[float]]) -> None:
    """Print what was measured."""
    print(described("painting, of decode speed, stretches", samples["cost"]))
    print(described("painting, of decode speed, pairs", samples["cost, pairs"]))
    print(described("the interface's thread, of a core", samples["interface"]))


if __name__ == "__main__":
    asked = int(sys.argv[1]) if sys.argv[1:] else 40
    show(measure(asked, asked // 2))

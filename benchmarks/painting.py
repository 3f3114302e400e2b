"""What the full-screen chat costs of decode speed: its painting, and the little else it does.

    uv run python -m benchmarks.painting [blocks]

Times are the decoding thread's own. Painting: of each two turns of a chat one is painted and one
generated only, by lot; such a pair is a sample. All of the chat: the same turn in it and in a
process that only generates. Two processes that do the same differ by up to 7 % for as long as they
live, so there are new ones in every block, and a block is one sample.
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

BLOCKS, TURNS = 20, 5
"""Pairs of processes, and turns of each."""
CHATS, PAIRS = 6, 10
"""Chats that paint one of each two turns, and pairs of turns in each."""


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
        self.terminal.drain(0.1)
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


def block(seed: int) -> tuple[float, list[float]]:
    """What the chat cost of decode speed, and what of a core the interface's thread took.

    Two new processes hold the same conversation, which of them first by lot; each waits while the
    other speaks.
    """
    shown, bare = Speaker("chat", "demo", "--seed", "1"), Speaker("decode")
    lot, costs, interface = random.Random(seed), [], []
    try:
        for number in range(-1, TURNS):  # the first one compiles
            prompt = PROMPTS[(seed + number) % len(PROMPTS)]
            turns = {}
            for speaker in lot.sample([shown, bare], 2):
                turns[speaker] = speaker.turn(prompt)
            if number >= 0:
                costs.append(1 - turns[shown]["tps"] / turns[bare]["tps"])
                seconds = turns[shown]["tokens"] / turns[shown]["tps"]
                interface.append(turns[shown]["interface_cpu"] / seconds)
        return statistics.median(costs), interface
    finally:
        shown.terminal.close()
        bare.terminal.close()


def by_turns(seed: int) -> list[float]:
    """What painting cost of decode speed, in each pair of turns of one chat."""
    chat, costs = Speaker("by-turns", "demo", "--seed", "1"), []
    try:
        for number in range(-1, PAIRS):  # the first ones compile
            prompt = PROMPTS[(seed + number) % len(PROMPTS)]
            turns = [chat.turn(prompt) for _ in range(2)]
            tps = {turn["painted"]: turn["tps"] for turn in turns}
            if number >= 0:
                costs.append(1 - tps[True] / tps[False])
        return costs
    finally:
        chat.terminal.close()


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


def measure(blocks: int) -> dict[str, list[float]]:
    """What painting cost, the chat in each of the blocks, and the interface's share of a core."""
    painting = [cost for seed in range(CHATS) for cost in by_turns(seed)]
    samples = [block(seed) for seed in range(blocks)]
    interface = [share for _, shares in samples for share in shares]
    return {
        "painting": painting,
        "chat": [cost for cost, _ in samples],
        "interface": interface,
    }


def show(samples: dict[str, list[float]]) -> None:
    """Print what was measured."""
    print(described("painting, of decode speed", samples["painting"]))
    print(described("the chat, of decode speed", samples["chat"]))
    print(described("the interface's thread, of a core", samples["interface"]))


if __name__ == "__main__":
    show(measure(int(sys.argv[1]) if sys.argv[1:] else BLOCKS))

"""What an automatic budget saves a user: held-out problems through the package, in seconds.

    python -m benchmarks.auto_budget [--model demo] [--per-family 4] [--without-slot 1000]

Each problem is answered greedily with whole thoughts, with ``auto``, and with ``auto`` behind a
direct answer, in a shuffled order; seconds are the processor's, so that a busy machine says the
same. Accuracy and tokens of thousands of problems: `training.calibrate`.

``--without-slot N`` tells what ``auto`` costs where nothing fits the slot: thoughts of N tokens
whose probes are misfits, with the floor and the interval of a model that isn't calibrated.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.record import write
from qwen3_mlx.chat.probing import Calibration
from qwen3_mlx.engine import probe
from qwen3_mlx.model import Qwen3, load
from training.data.chat import FAMILIES
from training.data.problem import Problem
from training.heldout import problems
from training.traces import is_for_calibration

ARMS: dict[str, Any] = {"whole": None, "auto": "auto", "first": {"first": True}}


@dataclass
class Found:
    """Sums over one arm's turns."""

    problems: int = 0
    seconds: float = 0.0
    right: int = 0
    thinking_tokens: int = 0
    probes: int = 0
    probe_tokens: int = 0
    probe_seconds: float = 0.0


def ask(model: Qwen3, problem: Problem, budget: Any, found: Found) -> None:
    """One turn, added to what the arm has found."""
    began = time.process_time()
    reply = model.generate(
        problem.question, thinking=True, thinking_budget=budget, temperature=0, max_tokens=800
    )
    found.seconds += time.process_time() - began
    found.problems += 1
    found.right += FAMILIES[problem.family].grade(problem.spec, reply.answer) == problem.result
    found.thinking_tokens += reply.stats.thinking_tokens
    found.probes += reply.stats.probes
    found.probe_tokens += reply.stats.probe_tokens
    found.probe_seconds += reply.stats.probe_seconds


def without_slot(model: Qwen3, tokens: int, rounds: int = 5) -> None:
    """Print what misfits cost a thought that goes on for so many tokens."""
    probe.short_answer = lambda pieces, probabilities: None  # type: ignore[attr-defined]
    known = Calibration()
    ends = dict.fromkeys([*model.tokenizer.eos_ids, model.tokenizer.think_close], -100.0)
    arms: dict[str, Any] = {
        "whole": None,
        "auto": {"floor": known.floor, "interval": known.interval, "certainty": 1.0},
    }
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for seed in range(rounds):
        for name in random.Random(seed).sample(list(arms), len(arms)):
            began = time.process_time()
            reply = model.generate(
                "Sort 5, 2 and 9.", thinking=True, thinking_budget=arms[name], seed=seed,
                max_tokens=tokens, logit_bias=ends,
            )  # fmt: skip
            seconds[name].append(time.process_time() - began)
            if name == "auto":
                print(f"{reply.stats.probes} probes of {reply.stats.probe_tokens} tokens")
    ratios = [a / b for a, b in zip(seconds["auto"], seconds["whole"], strict=True)]
    print(f"{tokens} tokens: auto takes {statistics.median(ratios):.3f} x (median of {rounds})")


def main() -> None:
    """Print a line an arm, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--per-family", type=int, default=4)
    parser.add_argument("--without-slot", type=int, metavar="N")
    asked = parser.parse_args()
    model, draw = load(asked.model), random.Random(0)
    model.generate("hello", max_tokens=4)  # what is compiled or read at first use
    if asked.without_slot:
        without_slot(model, asked.without_slot)
        return
    found = {name: Found() for name in ARMS}
    for family in FAMILIES:
        held = problems(family, 16 + 4 * asked.per_family, "in seconds")
        for problem in [p for p in held if not is_for_calibration(p)][: asked.per_family]:
            for name in draw.sample(list(ARMS), len(ARMS)):
                ask(model, problem, ARMS[name], found[name])
    whole = found["whole"].seconds
    for name, one in found.items():
        print(
            f"{name:6} {one.seconds:6.1f} s ({one.seconds / whole:.2f} x whole), right {one.right}"
            f" of {one.problems}, thought {one.thinking_tokens} tokens,"
            f" {one.probes} probes of {one.probe_tokens} tokens"
        )
    rows = {n: vars(one) for n, one in found.items()}
    print(write(f"auto-{asked.model}", {"per_family": asked.per_family, "arms": rows}))


if __name__ == "__main__":
    main()

"""What an automatic budget saves a user: held-out problems through the package, in seconds.

    python -m benchmarks.auto_budget [--model demo] [--per-family 4]

Each problem is answered greedily with whole thoughts, with ``auto``, and with ``auto`` behind a
direct answer, in a shuffled order; seconds are the processor's, so that a busy machine says the
same. Accuracy and tokens of thousands of problems: `training.calibrate`.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.record import write
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


def main() -> None:
    """Print a line an arm, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--per-family", type=int, default=4)
    asked = parser.parse_args()
    model, draw = load(asked.model), random.Random(0)
    model.generate("hello", max_tokens=4)  # what is compiled or read at first use
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

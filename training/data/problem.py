"""A task family's products, and the split that keeps held-out problems out of training."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

Spec = tuple[Any, ...]
"""A problem as data: ``(kind, argument, ...)``; hashable, so it can be told apart from others."""

HELD_OUT_ONE_IN = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem with its worked solution."""

    family: str
    spec: Spec
    question: str
    thinking: str
    """The steps, one line, ending with the result."""
    answer: str
    """One short sentence with the result, in the language of the question."""
    result: str
    """The bare result; what "be brief" asks for and what the evaluation compares."""
    reason: str = ""
    """A short true sentence for "why?"; empty where the family has none."""
    language: str = "en"


@dataclass(frozen=True, slots=True)
class Family:
    """A task family: how to draw a problem, name it, write it out, and ask something after it."""

    name: str
    draw: Callable[[Random], Spec]
    write: Callable[[Random, Spec, str | None], Problem]
    """``write(rng, spec, question)``; without a question it phrases one itself."""
    key: Callable[[Spec], str]
    """The canonical name of a problem: equal for `2 + 3` and `3 + 2`."""
    grade: Callable[[Spec, str], str]
    """``grade(spec, answer)`` finds the result in an answer; "" where there is none."""
    follow: Callable[[Random, Problem], tuple[Spec, str] | None]
    """A follow-up question and its problem, or None."""

    def make(self, rng: Random, held_out: bool = False) -> Problem:
        """A problem from one side of the split."""
        while True:
            spec = self.draw(rng)
            if is_held_out(self.key(spec)) == held_out:
                return self.write(rng, spec, None)


def is_held_out(key: str) -> bool:
    """Whether a problem belongs to the held-out twentieth. A key that ends in "!" never does:
    single-digit sums and the like are facts to know, not problems to generalise to."""
    return not key.endswith("!") and zlib.crc32(key.encode()) % HELD_OUT_ONE_IN == 0


def no_follow(rng: Random, problem: Problem) -> tuple[Spec, str] | None:
    """For families without follow-up questions."""
    return None

"""A question that needs no working: many ways to ask, one short thought, several true answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from training.data.phrase import dressed, typo


@dataclass(frozen=True, slots=True)
class Exchange:
    """`asks` and `answers` are alternatives; braces in them stand for the persona's facts."""

    asks: Sequence[str]
    thinking: str
    answers: Sequence[str]


@dataclass(frozen=True, slots=True)
class Persona:
    """The model's sentence about itself."""

    name: str = "demo"
    size: str = "6 million"

    def fill(self, text: str) -> str:
        """`text` with the facts in the place of ``{name}`` and ``{size}``."""
        return text.replace("{name}", self.name).replace("{size}", self.size)


def asked(rng: Random, text: str) -> str:
    """`text` as people type it: cases, missing marks, typos."""
    draw = rng.random()
    if draw < 0.3:
        text = text.lower()
    elif draw < 0.33:
        text = text.upper()
    if rng.random() < 0.25:
        text = text.rstrip("?.!¿¡？。！؟ ") or text
    if rng.random() < 0.08:
        text = typo(rng, text)
    return dressed(rng, text) if text.isascii() else text

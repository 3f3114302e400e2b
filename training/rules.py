"""Rules that end a thought, tried on traces: what each would have given, and which is chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from statistics import mean, stdev
from typing import Any, NamedTuple

from qwen3_mlx.engine.probe_schedule import ProbeRule, ProbeSchedule
from qwen3_mlx.engine.short_answer import ShortAnswer

CERTAINTIES = (0.5, 0.7, 0.8, 0.9, 0.93, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995, 0.999)
INTERVALS = (8, 12, 16, 24)
LOST = 0.005
"""Accuracy that a rule may lose, one standard error of the loss counted in."""
FLOOR, STOP_TOKENS = 8, 24

Row = dict[str, Any]


class Ended(NamedTuple):
    """How one problem went under a rule."""

    right: bool
    tokens: int
    probes: int = 0
    probe_tokens: int = 0
    probe_passes: int = 0
    """Forward passes of the probes: one reads the stop text and the slot, then one a token."""

    @property
    def passes(self) -> int:
        """What the time goes by: forward passes of thought and probes."""
        return self.tokens + self.probe_passes


Rule = Callable[[Row], Ended]
Kind = list[tuple[dict[str, Any], Rule]]
"""Rules of one idea, each by its numbers."""


def by_schedule(rule: ProbeRule, confidence: str = "certainty") -> Rule:
    """The package's own schedule, told what the probes found; `confidence` is what it goes by."""

    def ended(row: Row) -> Ended:
        schedule = ProbeSchedule(rule)
        probes = tokens = passes = 0
        if schedule.direct:
            direct = row["direct"]
            probes, tokens, passes = 1, direct["cost"] + 4, 1 + direct["answer"]
            if schedule.answers_directly(_answer(direct, confidence)):
                return Ended(direct["right"], 0, probes, tokens, passes)
        for probe in row["probes"]:
            schedule.read(b".")
            if schedule.due(probe["at"]):
                probes, tokens = probes + 1, tokens + probe["cost"] + STOP_TOKENS
                passes += 1 + probe["answer"]
                if schedule.ends_thought(_answer(probe, confidence), probe["at"]):
                    return Ended(probe["right"], probe["at"], probes, tokens, passes)
        return Ended(row["right"], row["tokens"], probes, tokens, passes)

    return ended


def by_entropy(most: float, interval: float) -> Rule:
    """The first token behind the stop text is certain enough: one pass a probe, no answer."""

    def ended(row: Row) -> Ended:
        due, probes = float(FLOOR), 0
        for probe in row["probes"]:
            if probe["at"] >= due:
                due, probes = probe["at"] + interval, probes + 1
                if probe["entropy"] < most:
                    return Ended(probe["right"], probe["at"], probes, probes * STOP_TOKENS, probes)
        return Ended(row["right"], row["tokens"], probes, probes * STOP_TOKENS, probes)

    return ended


def _answer(probe: Row, confidence: str) -> ShortAnswer | None:
    if probe["value"] is None:
        return None
    return ShortAnswer(probe["value"], 1.0 if confidence == "none" else probe[confidence])


def grid(make: Callable[..., Rule], **numbers: Sequence[float]) -> Kind:
    """`make` with every choice of the numbers."""
    chosen = [dict(zip(numbers, one, strict=True)) for one in product(*numbers.values())]
    return [(one, make(**one)) for one in chosen]


def candidates() -> dict[str, Kind]:
    """Every kind of rule, with its numbers."""
    rule = ProbeRule(FLOOR, 16, 0.9, (), agreeing=1)

    def value(**numbers: Any) -> Rule:
        return by_schedule(replace(rule, **numbers))

    def every(**numbers: Any) -> Rule:
        return by_schedule(replace(rule, **numbers), "all")

    def stable(**numbers: Any) -> Rule:
        return by_schedule(replace(rule, **numbers), "none")

    sure = {"interval": INTERVALS, "certainty": CERTAINTIES}
    return {
        "value": grid(value, **sure, agreeing=(1,)),
        "value, two agree": grid(value, **sure, agreeing=(2,)),
        "all tokens": grid(every, **sure),
        "stable": grid(stable, interval=INTERVALS, agreeing=(2, 3, 4, 5)),
        "first token's entropy": grid(
            by_entropy, most=(0.3, 0.1, 0.03, 0.01, 0.003), interval=INTERVALS
        ),
        "direct, else a whole thought": grid(value, floor=(10**9,), direct_certainty=CERTAINTIES),
    }


def cascades(numbers: dict[str, Any]) -> Kind:
    """The chosen rule's probes behind a direct answer, by what that must be sure of."""
    rule = replace(ProbeRule(FLOOR, 16, 0.9, ()), **numbers)
    return grid(
        lambda **more: by_schedule(replace(rule, **more)),
        direct_certainty=CERTAINTIES,
    )


def run(rule: Rule, rows: Sequence[Row]) -> list[Ended]:
    return [rule(row) for row in rows]


def choose(kind: Kind, rows: Sequence[Row]) -> tuple[dict[str, Any], Rule]:
    """The rule of the fewest passes among those that lose at most `LOST`, else the best."""
    scored = []
    for _, rule in kind:
        ends = run(rule, rows)
        changed = [row["right"] - end.right for row, end in zip(rows, ends, strict=True)]
        lost = mean(changed)
        error = stdev(changed) / math.sqrt(len(rows))
        scored.append((lost + error <= LOST, -mean(e.passes for e in ends), lost))
    able = [n for n, one in enumerate(scored) if one[0]]
    if able:
        return kind[max(able, key=lambda n: scored[n][1])]
    return kind[min(range(len(kind)), key=lambda n: scored[n][2])]

"""Finds how sure a model must be before its thought may end, and what that is worth.

    python -m training.calibrate --model qwen3_mlx/demo --per-family 250 --out OUT

Half of the held-out problems, by their hash, choose the certainties; the other half is reported.
Writes ``auto_budget.json`` (goes beside the weights: thresholds, reliability), ``traces.json`` and
``report.json`` into OUT. 20 a family are enough to try it on a CPU; the report needs 250.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from qwen3_mlx.chat.probing import FILE, Calibration
from qwen3_mlx.engine.probe_schedule import ProbeRule, ProbeSchedule
from qwen3_mlx.engine.short_answer import ShortAnswer
from training.data.chat import FAMILIES

CERTAINTIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
LOST = 0.005
"""Accuracy that a rule may lose against whole thoughts."""
SLOT, FLOOR, INTERVAL, STOP_TOKENS = "The answer is", 8, 16, 24
RESAMPLES = 2_000

Row = dict[str, Any]


class Ended(NamedTuple):
    """How one problem went under a rule."""

    right: bool
    tokens: int
    probes: int = 0
    probe_tokens: int = 0


Rule = Callable[[Row], Ended]


def by_schedule(rule: ProbeRule, confidence: str = "certainty") -> Rule:
    """The package's own schedule, told what the probes found; `confidence` is what it goes by."""

    def ended(row: Row) -> Ended:
        schedule = ProbeSchedule(rule)
        probes = tokens = 0
        if schedule.direct:
            direct = row["direct"]
            probes, tokens = 1, direct["cost"] + 4
            if schedule.answers_directly(_answer(direct, confidence)):
                return Ended(direct["right"], 0, probes, tokens)
        for probe in row["probes"]:
            schedule.read(b".")
            if schedule.due(probe["at"]):
                probes, tokens = probes + 1, tokens + probe["cost"] + STOP_TOKENS
                if schedule.ends_thought(_answer(probe, confidence), probe["at"]):
                    return Ended(probe["right"], probe["at"], probes, tokens)
        return Ended(row["right"], row["tokens"], probes, tokens)

    return ended


def by_entropy(most: float) -> Rule:
    """The first token behind the stop text is certain enough: one pass a probe, no answer."""

    def ended(row: Row) -> Ended:
        due, probes = FLOOR, 0
        for probe in row["probes"]:
            if probe["at"] >= due:
                due, probes = probe["at"] + INTERVAL, probes + 1
                if probe["entropy"] < most:
                    return Ended(probe["right"], probe["at"], probes, probes * STOP_TOKENS)
        return Ended(row["right"], row["tokens"], probes, probes * STOP_TOKENS)

    return ended


def _answer(probe: Row, confidence: str) -> ShortAnswer | None:
    if probe["value"] is None:
        return None
    return ShortAnswer(probe["value"], 1.0 if confidence == "none" else probe[confidence])


def candidates() -> dict[str, list[tuple[float, Rule]]]:
    """Every kind of rule, by its thresholds."""
    rule = ProbeRule(FLOOR, INTERVAL, 0.9, ())
    kinds: dict[str, list[tuple[float, Rule]]] = {
        "value, two agree": [(c, by_schedule(replace(rule, certainty=c))) for c in CERTAINTIES],
        "value alone": [
            (c, by_schedule(replace(rule, certainty=c, agreeing=1))) for c in CERTAINTIES
        ],
        "all tokens, two agree": [
            (c, by_schedule(replace(rule, certainty=c), "all")) for c in CERTAINTIES
        ],
        "stable": [(k, by_schedule(replace(rule, agreeing=k), "none")) for k in (2, 3, 4, 5)],
        "first token's entropy": [(e, by_entropy(e)) for e in (0.3, 0.1, 0.03, 0.01, 0.003)],
        "direct, else a whole thought": [
            (c, by_schedule(replace(rule, floor=10**9, direct_certainty=c))) for c in CERTAINTIES
        ],
    }
    return kinds


def run(rule: Rule, rows: Sequence[Row]) -> list[Ended]:
    return [rule(row) for row in rows]


def choose(kind: list[tuple[float, Rule]], rows: Sequence[Row]) -> tuple[float, Rule]:
    """The threshold that thinks least among those that lose at most `LOST`, else the best."""
    full = mean(row["right"] for row in rows)
    scored = []
    for threshold, rule in kind:
        ends = run(rule, rows)
        accuracy, tokens = mean(e.right for e in ends), mean(e.tokens for e in ends)
        scored.append((accuracy >= full - LOST, -tokens, accuracy, threshold, rule))
    able = [one for one in scored if one[0]]
    best = max(able, key=lambda one: one[1]) if able else max(scored, key=lambda one: one[2])
    return best[3], best[4]


def fixed_curve(rows: Sequence[Row]) -> list[tuple[float, float]]:
    """(mean tokens, accuracy) of fixed budgets: none, those measured, no limit."""
    points = [(0.0, mean(row["direct"]["right"] for row in rows))]
    for budget in rows[0]["fixed"]:
        ends = [row["fixed"][budget] for row in rows]
        points.append((mean(e[1] for e in ends), mean(e[0] for e in ends)))
    points.append((mean(row["tokens"] for row in rows), mean(row["right"] for row in rows)))
    return sorted(points)


def at(curve: Sequence[tuple[float, float]], tokens: float) -> float:
    """The curve's accuracy at so many mean tokens, by straight lines."""
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x0 <= tokens <= x1:
            return y0 + (y1 - y0) * (tokens - x0) / max(x1 - x0, 1e-9)
    return curve[-1][1]


def measured(rule: Rule, rows: Sequence[Row], resamples: int = RESAMPLES) -> dict[str, Any]:
    """A rule on `rows`: means, losses by family, and bootstrap 95 % intervals."""

    import numpy as np

    ends = run(rule, rows)
    columns = [[e.right for e in ends], [e.tokens for e in ends], [r["right"] for r in rows],
               [r["tokens"] for r in rows], [r["direct"]["right"] for r in rows]]  # fmt: skip
    for budget in rows[0]["fixed"]:
        columns += [[r["fixed"][budget][0] for r in rows], [r["fixed"][budget][1] for r in rows]]
    values = np.array(columns, dtype=float)  # [columns, N]

    def numbers(means: Any) -> list[float]:
        right, tokens, full, whole, direct, *fixed = means.tolist()
        points = [(0.0, direct), (whole, full), *zip(fixed[1::2], fixed[::2], strict=True)]
        return [right - full, tokens / whole, right - at(sorted(points), tokens)]

    rng, size = np.random.default_rng(0), len(rows)
    drawn = [
        numbers(values @ (rng.multinomial(size, [1 / size] * size) / size))
        for _ in range(resamples)
    ]
    names = ("against full", "share of tokens", "gain over fixed")
    found: dict[str, Any] = {
        "accuracy": mean(e.right for e in ends),
        "tokens": mean(e.tokens for e in ends),
        "probes": mean(e.probes for e in ends),
        "probe tokens": mean(e.probe_tokens for e in ends),
        "all-in tokens": mean(e.tokens + e.probe_tokens for e in ends),
    }
    for index, (name, value) in enumerate(zip(names, numbers(values.mean(axis=1)), strict=True)):
        column = sorted(one[index] for one in drawn)
        low, high = (
            column[int(0.025 * resamples)],
            column[min(int(0.975 * resamples), resamples - 1)],
        )
        found[name] = {"value": value, "low": low, "high": high}
    found["families"] = {
        name: {
            "full": mean(row["right"] for row, _ in own),
            "accuracy": mean(e.right for _, e in own),
            "tokens": mean(e.tokens for _, e in own),
        }
        for name in FAMILIES
        if (own := [pair for pair in zip(rows, ends, strict=True) if pair[0]["family"] == name])
    }
    return found


def reliability(rows: Sequence[Row]) -> list[dict[str, float]]:
    """How often a probe was right, by how certain it was."""
    edges = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 1.0001)
    probes = [probe for row in rows for probe in row["probes"] if probe["value"] is not None]
    found = []
    for low, high in pairwise(edges):
        own = [p for p in probes if low <= p["certainty"] < high]
        if own:
            sure, right = mean(p["certainty"] for p in own), mean(p["right"] for p in own)
            found.append({"probes": len(own), "certainty": sure, "right": right})
    return found


def report(rows: Sequence[Row]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What goes beside the weights, and the test half's numbers."""
    half, test = ([r for r in rows if r["calibration"] is side] for side in (True, False))
    rules, chosen = {}, {}
    for name, kind in candidates().items():
        chosen[name], rule = choose(kind, half)
        rules[name] = {"threshold": chosen[name]} | measured(rule, test)
    certainty, direct = chosen["value, two agree"], chosen["direct, else a whole thought"]
    own = ProbeRule(FLOOR, INTERVAL, certainty, (), direct_certainty=direct)
    rules["cascade: direct, else probes"] = {"threshold": direct} | measured(by_schedule(own), test)
    known = Calibration(SLOT, FLOOR, INTERVAL, certainty, direct)
    beside = {name: getattr(known, name) for name in Calibration.__dataclass_fields__}
    beside |= {"problems": len(half), "reliability": reliability(half)}
    full = {"accuracy": mean(r["right"] for r in test), "tokens": mean(r["tokens"] for r in test)}
    numbers = {"calibration problems": len(half), "test problems": len(test), "full": full}
    numbers |= {"fixed": fixed_curve(test), "rules": rules, "reliability": reliability(test)}
    return beside, numbers


def traced(model: Path, per_family: int, at_once: int) -> list[Row]:
    import mlx.core as mx
    from tokenizers import Tokenizer as Backend

    from qwen3_mlx.checkpoint import load_network
    from qwen3_mlx.text import Tokenizer
    from training.heldout import Examiner, problems
    from training.traces import Tracer

    network, _ = load_network(model)
    network.set_dtype(mx.float32)
    examiner = Examiner(network, Backend.from_file(str(model / "tokenizer.json")), at_once)
    tracer = Tracer(network, Tokenizer.from_dir(model), examiner, SLOT)
    return tracer.traces(
        [one for family in FAMILIES for one in problems(family, per_family, "automatic budgets")]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("qwen3_mlx/demo"))
    parser.add_argument("--per-family", type=int, default=250)
    parser.add_argument("--at-once", type=int, default=128, help="rows computed together")
    parser.add_argument("--traces", type=Path, help="traces of an earlier run, to be read")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.traces:
        rows = json.loads(args.traces.read_text("utf-8"))
    else:
        rows = traced(args.model, args.per_family, args.at_once)
        (args.out / "traces.json").write_text(json.dumps(rows), "utf-8")
    beside, numbers = report(rows)
    for name, value in ((FILE, beside), ("report.json", numbers)):
        (args.out / name).write_text(json.dumps(value, indent=1) + "\n", "utf-8")
    print(f"full: {numbers['full']}")
    for name, one in numbers["rules"].items():
        gain, share = one["gain over fixed"], one["share of tokens"]
        print(
            f"{name:32} > {one['threshold']:<6} right {one['accuracy']:.3f} tokens"
            f" {one['tokens']:6.1f} ({share['value']:.0%}) gain {gain['value']:+.3f}"
            f" [{gain['low']:+.3f}, {gain['high']:+.3f}] all in {one['all-in tokens']:.1f}"
        )


if __name__ == "__main__":
    main()

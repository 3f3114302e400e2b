"""Finds how sure a model must be before its thought may end, and what that is worth.

    python -m training.calibrate --model qwen3_mlx/demo --per-family 250 --out OUT

A problem's hash says whether it chooses the rule or is reported; 250 a family do each. Writes
``auto_budget.json`` (goes beside the weights: the rule's numbers, reliability), ``traces.json`` and
``report.json`` into OUT. A GPU takes two minutes, two CPU cores four hours; 10 a family try it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

from qwen3_mlx.chat.probing import FILE, Calibration
from training.data.chat import FAMILIES
from training.rules import FLOOR, Row, Rule, candidates, cascades, choose, run

SLOT = "The answer is"
RESAMPLES = 2_000


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
        "passes": mean(e.passes for e in ends),
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


def reliability(rows: Sequence[Row]) -> list[dict[str, Any]]:
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
    kinds = candidates()
    kinds["chosen"] = kinds["value"] + kinds["value, two agree"]
    rules: dict[str, Any] = {}
    for name, kind in kinds.items():
        numbers, rule = choose(kind, half)
        rules[name] = {"numbers": numbers} | measured(rule, test)
    own = rules["chosen"]["numbers"]
    numbers, rule = choose(cascades(own), half)
    rules["chosen, behind a direct answer"] = {"numbers": own | numbers} | measured(rule, test)
    known = Calibration(SLOT, FLOOR, **own, **numbers)
    beside = {name: getattr(known, name) for name in Calibration.__dataclass_fields__}
    beside |= {"problems": len(half), "reliability": reliability(half)}
    full = {"accuracy": mean(r["right"] for r in test), "tokens": mean(r["tokens"] for r in test)}
    found = {"calibration problems": len(half), "test problems": len(test), "full": full}
    found |= {"fixed": fixed_curve(test), "rules": rules, "reliability": reliability(test)}
    return beside, found


def traced(model: Path, per_family: int, at_once: int) -> list[Row]:
    import mlx.core as mx
    from tokenizers import Tokenizer as Backend

    from qwen3_mlx.checkpoint import load_network
    from qwen3_mlx.text import Tokenizer
    from training.heldout import Examiner, problems
    from training.traces import Tracer, is_for_calibration

    network, _ = load_network(model)
    network.set_dtype(mx.float32)
    examiner = Examiner(network, Backend.from_file(str(model / "tokenizer.json")), at_once)
    tracer = Tracer(network, Tokenizer.from_dir(model), examiner, SLOT)
    asked = []
    for family in FAMILIES:
        drawn = problems(family, 4 * per_family, "automatic budgets")
        for side in (True, False):
            asked += [one for one in drawn if is_for_calibration(one) is side][:per_family]
    return tracer.traces(asked)


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
            f"{name:30} right {one['accuracy']:.3f} tokens {one['tokens']:5.1f}"
            f" ({share['value']:.0%}) passes {one['passes']:5.1f} gain {gain['value']:+.3f}"
            f" [{gain['low']:+.3f}, {gain['high']:+.3f}] {one['numbers']}"
        )


if __name__ == "__main__":
    main()

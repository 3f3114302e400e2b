"""Draws accuracy against thinking tokens, fixed and automatic, from what calibrate reported.

    python -m training.plot_auto OUT/report.json --out docs/demo-auto

writes ``docs/demo-auto.png`` and ``.svg``; needs matplotlib (the `train` group).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from training.plot import picture


def draw(report: dict[str, Any], out: Path) -> None:
    """The fixed budgets as a line, each automatic rule as a point beside it."""
    name = out.name.removesuffix("-auto")
    title = f"{name} model, {report['test problems']} held-out problems, greedy"
    with picture(out, title) as axes:
        curve = report["fixed"]
        axes.plot(
            [tokens for tokens, _ in curve], [100 * right for _, right in curve],
            color="black", marker="o", label="fixed budgets",
        )  # fmt: skip
        for rule, found in report["rules"].items():
            mark = "*" if rule.startswith("chosen") else "D"
            size = 16 if mark == "*" else 7
            place = (found["tokens"], 100 * found["accuracy"])
            axes.plot(*place, mark, markersize=size, label=rule, alpha=0.8)
        axes.set_xlabel("mean tokens of thinking, probes not counted")
        axes.legend(fontsize=8, loc="lower right")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/demo-auto"))
    args = parser.parse_args()
    draw(json.loads(args.report.read_text("utf-8")), args.out)


if __name__ == "__main__":
    main()

"""Draws accuracy against thinking tokens, fixed and automatic, from what calibrate reported.

    python -m training.plot_auto OUT/report.json --out docs/demo-auto

writes ``docs/demo-auto.png`` and ``.svg``; needs matplotlib (the `train` group).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def draw(report: dict[str, Any], out: Path) -> None:
    """The fixed budgets as a line, each automatic rule as a point beside it."""
    import matplotlib  # type: ignore[import-not-found, unused-ignore]  # the train group only

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "qwen3-mlx"  # the same numbers give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    curve = report["fixed"]
    axes.plot(
        [tokens for tokens, _ in curve], [100 * right for _, right in curve],
        color="black", marker="o", label="fixed budgets",
    )  # fmt: skip
    for name, rule in report["rules"].items():
        axes.plot(rule["tokens"], 100 * rule["accuracy"], "D", markersize=8, label=name)
    axes.set_xlabel("mean tokens of thinking, probes not counted")
    axes.set_ylabel("right answers in %")
    axes.grid(alpha=0.3)
    name = out.name.removesuffix("-auto")
    axes.set_title(f"{name} model, {report['test problems']} held-out problems, greedy")
    axes.legend(fontsize=8, loc="lower right")
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
        figure.savefig(out.with_suffix(suffix), dpi=150, metadata=metadata)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/demo-auto"))
    args = parser.parse_args()
    draw(json.loads(args.report.read_text("utf-8")), args.out)


if __name__ == "__main__":
    main()

"""Draws accuracy against the thinking budget from the numbers that evaluate.py wrote.

    python -m training.plot docs/demo-scores.json --out docs/demo-budget

writes ``docs/demo-budget.png`` and ``.svg``; needs matplotlib (the `train` group).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.data.chat import FAMILIES
from training.evaluate import BUDGETS, DIRECT, UNLIMITED

_LABELS = (DIRECT, *map(str, BUDGETS), UNLIMITED)


@contextmanager
def picture(out: Path, title: str) -> Iterator[Any]:
    """Axes for accuracy in %; behind the block they are written to `out`'s .png and .svg."""
    import matplotlib  # type: ignore[import-not-found, unused-ignore]  # the train group only

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "qwen3-mlx"  # the same numbers give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    yield axes
    axes.set_ylabel("right answers in %")
    axes.grid(alpha=0.3)
    axes.set_title(title)
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
        figure.savefig(out.with_suffix(suffix), dpi=150, metadata=metadata)
    pyplot.close(figure)


def draw(scores: dict[str, Any], out: Path) -> None:
    """One thin line a family, a thick one for all together."""
    name = out.name.removesuffix("-budget")
    title = f"{name} model, {scores['per_family']} held-out problems per family, greedy"
    with picture(out, title) as axes:
        places = range(len(_LABELS))
        for family in (*FAMILIES, "all"):
            values = [scores["accuracy"][label][family] for label in _LABELS]
            thick = family == "all"
            axes.plot(
                places, values, label="all families" if thick else family, marker="o",
                markersize=6 if thick else 3, linewidth=3 if thick else 1.2,
                color="black" if thick else None, alpha=1 if thick else 0.75,
            )  # fmt: skip
        axes.set_xticks(places, ["no\nthinking", *_LABELS[1:-1], "no limit"])
        axes.set_xlabel("thinking budget in tokens")
        axes.set_ylim(0, 102)
        axes.legend(ncols=2, fontsize=8, loc="lower right")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scores", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/demo-budget"))
    args = parser.parse_args()
    draw(json.loads(args.scores.read_text("utf-8")), args.out)


if __name__ == "__main__":
    main()

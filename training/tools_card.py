"""Writes demo-tools' card (README.md beside its weights) from its scores.

python -m training.tools_card docs/demo-tools-scores.json --log OUT/log.jsonl
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.call_check import CATEGORIES
from training.recipe import BUNDLED, Recipe

NAME = "demo-tools"
COLUMNS = (*CATEGORIES, "calls")
_CARD = """\
---
license: apache-2.0
library_name: mlx
pipeline_tag: text-generation
tags: [mlx, qwen3, demonstration, function-calling]
---

# demo-tools: a demonstration model that calls tools

[demo](../demo/README.md), trained on for a few minutes to call tools, so that qwen3-mlx can show
offline, on any machine, what an agent is: a call in Qwen3's form, its result, the next call, the
answer. 5.8 million parameters in {bits} ({size:.1f} MB); network, tokenizer and chat template are
demo's. **It is a toy, and named so.**

## What it can do

One to four tools on offer, under any name, of the sixteen kinds that it was trained with: a
calculator; sorting numbers or words; reversing a word or a list; counting a letter, or all, of a
word; the largest or smallest of some numbers; weekdays, days between two dates, dates some days
later, leap years; weather, units, timers, dice. One call, two at once, two in a row; several
turns; an error that comes back. Where no tool fits it does what demo does, or says so.

## What it can't

Anything else. A tool of another kind it calls wrongly or not at all, and it copies made-up or rare
names wrongly at times. Nothing here says anything about a real Qwen3: for that, run
`qwen3-mlx chat 8b --mcp FILE`.

## Scores

Held-out questions, no problem of which occurs in training (the split is by a hash of the problem),
greedy, float32. Right are those whose every call has the right name and the right arguments, and
for `irrelevance` those answered without one; `calls` is the four others together. Percent.

{tables}

## How it was made

{training}Half of the conversations offer tools, with names, texts and parameters drawn anew for
each (`training/data/tools/`; one name in eight says nothing of its tool), half are demo's own. Seed
{seed}, AdamW, peak learning rate {peak:g}; recipe in `training/models/demo-tools.toml`. To rebuild:
see `training/README.md`.

License: Apache-2.0, weights and data included.
"""


def table(scores: dict[str, dict[str, float]]) -> str:
    """Percent right as Markdown: a row a mode, a column a category."""
    lines = [f"| | {' | '.join(COLUMNS)} |", f"|---|{'---:|' * len(COLUMNS)}"]
    for mode, row in scores.items():
        cells = (f"{row[name]:.1f}" if name in row else "–" for name in COLUMNS)
        lines.append(f"| {mode} | {' | '.join(cells)} |")
    return "\n".join(lines)


def card(scores: dict[str, Any], recipe: Recipe, log: Path | None, size: float) -> str:
    """The card; `scores` has a table for each thing scored, `stored` is how the weights are."""
    tables = [f"{about}:\n\n{table(found)}" for about, found in scores["scores"].items()]
    return _CARD.format(
        bits=scores["stored"],
        size=size / 1e6,
        tables="\n\n".join(tables),
        training=_training(log),
        seed=recipe.seed,
        peak=recipe.optimizer.peak,
    )


def _training(log: Path | None) -> str:
    if log is None:
        return ""
    entries = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    end = entries[-1]
    compute = entries[0]["compute"].removeprefix("mlx.core.")
    return f"{end['step']:,} steps in {end['seconds']:.0f} s on one NVIDIA H200 in {compute}. "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scores", type=Path)
    parser.add_argument("--log", type=Path, help="log.jsonl of the training")
    args = parser.parse_args()
    folder = BUNDLED / NAME
    scores = json.loads(args.scores.read_text("utf-8"))
    size = (folder / "model.safetensors").stat().st_size
    text = card(scores, Recipe.named(NAME), args.log, size)
    (folder / "README.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()

"""The honest price of each recipe on a really trained model: the demo's tasks, by budget.

    python -m benchmarks.recipes --model demo --per-family 500 --out docs/recipes-demo.json

Converts the demo with each recipe, and asks every result the same held-out problems, greedily:
not thinking, with each budget, and without limit. Results are unpacked to float32 first, which
gives the same numbers as the packed weights and is quicker on a CPU. Writes JSON, prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx
from tokenizers import Tokenizer

from benchmarks.record import environment
from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.config.recipes import find
from qwen3_mlx.hub import resolve
from qwen3_mlx.quantize import job
from training.data.chat import FAMILIES
from training.data.problem import Problem
from training.evaluate import by_mode, percent
from training.experts import LoadMeter
from training.heldout import Examiner, problems

RECIPES = ("8bit", "6bit", "mixed-4-6", "4bit")
ORIGINAL = "original"


def convert(source: Path, recipe: str, work: Path) -> tuple[Path, dict[str, Any]]:
    """The result, unpacked to float32, and the record of its conversion."""
    packed, floats = work / recipe, work / f"{recipe}-floats"
    record = job.run(job.prepare(job.ConversionRequest(source, "demo", packed, find(recipe), "")))
    unpack = job.ConversionRequest(
        packed, "demo", floats, find("bf16"), "", dtype=mx.float32, allow_lossy=True, verify=False
    )
    job.run(job.prepare(unpack))
    return floats, record


def scores(model: Path, asked: list[Problem], at_once: int) -> dict[str, dict[str, float]]:
    """Percent right by mode, over all and in each family."""
    network, _ = load_network(model)
    network.set_dtype(mx.float32)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    outcomes = by_mode(Examiner(network, tokenizer, at_once), asked, LoadMeter(network))
    found = {}
    for mode, every in outcomes.items():
        pairs = list(zip(asked, every, strict=True))
        rows = {name: percent([o for p, o in pairs if p.family == name]) for name in FAMILIES}
        found[mode] = {"all": percent(every), **rows}
    return found


def table(rows: dict[str, Any]) -> str:
    """Markdown: a row a recipe, a column a mode."""
    modes = list(next(iter(rows.values()))["accuracy"])
    heads = [mode if not mode.isdigit() else f"budget {mode}" for mode in modes]
    lines = [
        f"| recipe | bits a weight | KL | {' | '.join(heads)} |",
        f"|---|---:|---:|{'---:|' * len(heads)}",
    ]
    for name, row in rows.items():
        cells = " | ".join(f"{row['accuracy'][mode]['all']:.1f}" for mode in modes)
        kl = "" if row["kl_mean"] is None else f"{row['kl_mean']:.4f}"
        lines.append(f"| {name} | {row['bits_per_weight']:.2f} | {kl} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", default="demo", help="demo or demo-moe")
    add("--recipes", nargs="+", default=list(RECIPES))
    add("--per-family", type=int, default=500)
    add("--at-once", type=int, default=512, help="rows decoded together")
    add("--out", type=Path, help="JSON file for the numbers")
    args = parser.parse_args()
    source = resolve.resolve(args.model)
    asked = [p for name in FAMILIES for p in problems(name, args.per_family, "held out")]
    work = Path(tempfile.mkdtemp())
    rows: dict[str, Any] = {}
    for name in [ORIGINAL, *args.recipes]:
        row: dict[str, Any] = {"bits_per_weight": 16.0, "kl_mean": None}
        model = source
        if name != ORIGINAL:
            model, record = convert(source, name, work)
            row = {"bits_per_weight": record["bits_per_weight"]} | record["measured"]
        rows[name] = row | {"accuracy": scores(model, asked, args.at_once)}
        print(f"{name}: {rows[name]['accuracy']['unlimited']['all']} %", flush=True)
    shutil.rmtree(work)
    if args.out:
        results = {"model": args.model, "problems": len(asked), "per_family": args.per_family}
        text = json.dumps({"environment": environment(), "results": results | {"rows": rows}})
        args.out.write_text(text + "\n", "utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()

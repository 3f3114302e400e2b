"""Writes docs/fit.md, what of the family fits which Mac: ``python docs/make_fit.py``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.fit import alternatives, inequality, machine
from qwen3_mlx.hub import releases as family

FILE = Path(__file__).with_name("fit.md")
SIZES = (8, 16, 18, 24, 32, 36, 48, 64, 96, 128, 192, 512)
RECIPES = (*reversed(alternatives.BY_QUALITY), "bf16")
HEAD = """# Which model fits which Mac

<!-- Written by `python docs/make_fit.py`; a test holds it to `qwen3_mlx/fit/inequality.py`. -->

The longest context, in thousands of tokens (1k = 1,024), that fits beside the weights: what macOS
lets the GPU take by default (2/3 of the memory up to 36 GB, 3/4 above), keys and values in 16 bits,
2,048 tokens read at a time. A dash: it does not fit. Computed with [the sum](memory.md) that
`qwen3-mlx info` prints, not measured on every machine. The native context is the most shown; more
costs memory too, and `qwen3-mlx info MODEL --context N --kv-bits 8 --memory GB` adds it up.
"""


def table(size: str) -> str:
    """One size of the family: a row a recipe, a column a Mac."""
    releases = [release for release in family.RELEASES if release.size == size]
    rows = []
    for recipe in RECIPES:
        cells, weights = [], inequality.Weights(0, 0, 0)
        for gigabytes in SIZES:
            most = []
            for release in releases:
                config = replace(Qwen3Config.from_dict(release.config()), quantization=None)
                weights = alternatives.packed(config, recipe)
                most.append(inequality.largest_context(config, weights, machine.mac(gigabytes)))
            cells.append(_cell(max(most)))
        rows.append(f"| {recipe} | {weights.stored_bytes / 1e9:,.1f} GB | {' | '.join(cells)} |")
    heads = " | ".join(f"{gigabytes} GB" for gigabytes in SIZES)
    rule = "---:|" * (len(SIZES) + 1)
    longest = max(Qwen3Config.from_dict(r.config()).native_context for r in releases)
    names = ", ".join(f"`{release.alias}`" for release in releases)
    about = f"{names}: native context up to {longest:,} tokens."
    return "\n".join(
        [f"## {size}", "", about, "", f"| recipe | weights | {heads} |", f"|---|{rule}", *rows]
    )


def _cell(tokens: int) -> str:
    return f"{tokens / 1024:,.0f}k" if tokens >= alternatives.SMALLEST_CONTEXT else "–"


def page() -> str:
    """The whole page."""
    return "\n\n".join([HEAD.rstrip(), *(table(size) for size in family.SIZES)]) + "\n"


if __name__ == "__main__":
    FILE.write_text(page(), "utf-8")

"""Writes docs/fit.md, what of the family fits which Mac: ``python docs/make_fit.py``."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from pathlib import Path

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.fit import alternatives, inequality, machine
from qwen3_mlx.hub import releases

FILE = Path(__file__).with_name("fit.md")
MACS = machine.MAC_MEMORY_GB
RECIPES = (*reversed(alternatives.BY_QUALITY), "bf16")
HEAD = """# Which model fits which Mac

<!-- Written by `python docs/make_fit.py`; a test holds it to `qwen3_mlx/fit/inequality.py`. -->

The longest context, in thousands of tokens (1k = 1,024), that fits beside the weights: what macOS
lets the GPU take by default (2/3 of the memory up to 36 GB, 3/4 above), keys and values in 16 bits,
2,048 tokens read at a time. A dash: it does not fit. Macs that can do the same share a column.
Computed with [the sum](memory.md) that `qwen3-mlx info` prints, not measured on every machine. The
native context is the most shown; more costs memory too, and
`qwen3-mlx info MODEL --context N --kv-bits 8 --memory GB` adds it up.
"""


def table(size: str) -> str:
    """One size of the family: a row a recipe, a column for the Macs whose cells are the same."""
    listed = [release for release in releases.RELEASES if release.size == size]
    rows = [row(recipe, listed) for recipe in RECIPES]
    columns = list(zip(*rows, strict=True))
    kept = [columns[0], columns[1]]
    heads = ["recipe", "weights"]
    macs = list(zip(MACS, columns[2:], strict=True))
    for cells, group in groupby(macs, key=lambda mac: mac[1]):
        kept.append(cells)
        heads.append(_span([gigabytes for gigabytes, _ in group]))
    longest = max(Qwen3Config.from_dict(r.config()).native_context for r in listed)
    names = ", ".join(f"`{release.alias}`" for release in listed)
    about = f"{names}: native context up to {longest:,} tokens."
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *zip(*kept, strict=True)]
    return "\n".join([f"## {size}\n\n{about}\n", *(f"| {' | '.join(cells)} |" for cells in lines)])


def row(recipe: str, listed: list[releases.Release]) -> list[str]:
    """A recipe, what its weights take, and the longest context on each Mac."""
    cells, weights = [], inequality.Weights(0, 0, 0)
    for gigabytes in MACS:
        most = []
        for release in listed:
            config = replace(Qwen3Config.from_dict(release.config()), quantization=None)
            weights = alternatives.packed(config, recipe)
            most.append(inequality.largest_context(config, weights, machine.mac(gigabytes)))
        cells.append(_cell(max(most)))
    return [recipe, f"{weights.stored_bytes / 1e9:,.1f} GB", *cells]


def _span(gigabytes: list[int]) -> str:
    """Such as ``24 to 36 GB``."""
    if gigabytes == list(MACS):
        return "every Mac"
    if len(gigabytes) == 1:
        return f"{gigabytes[0]} GB"
    if gigabytes[-1] == MACS[-1]:
        return f"{gigabytes[0]} GB or more"
    return f"{gigabytes[0]} to {gigabytes[-1]} GB"


def _cell(tokens: int) -> str:
    return f"{tokens / 1024:,.0f}k" if tokens >= alternatives.SMALLEST_CONTEXT else "–"


def page() -> str:
    """The whole page."""
    return "\n\n".join([HEAD.rstrip(), *(table(size) for size in releases.SIZES)]) + "\n"


if __name__ == "__main__":
    FILE.write_text(page(), "utf-8")

"""The measured times of steps of several rows, and the gains of batching and speculation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from qwen3_mlx.bench.measure import interleaved, summary
from qwen3_mlx.bench.rows import ROWS, Steps, seconds
from qwen3_mlx.files import own_folder, read_small, write_atomically
from qwen3_mlx.metal import verdict

ACCEPTED = (0.5, 0.7, 0.8, 0.9)
"""Acceptance rates of drafts for which gains are computed."""

DRAFT_COST = 0.2
"""Cost of a draft model's step in steps of the target: 0.6B beside 8B in 4 bits."""


@dataclass(frozen=True, slots=True)
class RowsReading:
    """Median milliseconds of a step by its rows, of `sequences` and of `one` sequence."""

    model: str
    way: str
    """As `Steps.way`."""
    context: int
    """Tokens in the cache during the measurement."""
    sequences: dict[int, float]
    one: dict[int, float]
    noisy: bool = False
    """Whether a spread of samples was above `measure.NOISY`."""
    machine: str = ""
    day: str = ""

    def batching(self, rows: int) -> float:
        """The throughput of `rows` sequences relative to one sequence."""
        return rows * self.sequences[1] / self.sequences[rows]

    def speculation(self, accepted: float, cost: float = 0.0) -> tuple[float, int]:
        """The best gain at the acceptance rate `accepted`, and its number of drafts per step.

        cost: of a draft, in steps of one row.
        """
        gains = [
            (expected(accepted, rows - 1) / (ms / self.one[1] + (rows - 1) * cost), rows - 1)
            for rows, ms in self.one.items()
            if rows > 1
        ]
        return max(gains)


def expected(accepted: float, drafts: int) -> float:
    """Expected tokens per check: the accepted drafts and one more token."""
    return float(sum(accepted**n for n in range(drafts + 1)))


def measured(
    steps: Steps, model: str, context: int, tokens: int, rounds: int
) -> tuple[RowsReading, dict[str, dict[str, Any]]]:
    """Measure all sizes, interleaved in shuffled order; returns the medians and the samples."""
    arms = {
        f"{kind} {rows}": partial(seconds, steps, context, *sizes, tokens)
        for rows in ROWS
        for kind, sizes in (("sequences", (rows, 1)), ("one", (1, rows)))
        if rows > 1 or kind == "sequences"
    }
    found = {name: summary(samples) for name, samples in interleaved(arms, rounds).items()}

    def medians(kind: str) -> dict[int, float]:
        single = {1: 1e3 * found["sequences 1"]["median"]}
        several = (rows for rows in ROWS if rows > 1)
        return single | {rows: 1e3 * found[f"{kind} {rows}"]["median"] for rows in several}

    noisy = any(row["noisy"] for row in found.values())
    sizes = (medians("sequences"), medians("one"))
    reading = RowsReading(model, steps.way, context, *sizes, noisy, verdict.machine(), today())
    return reading, found


def today() -> str:
    """The date in ISO format."""
    import datetime

    return datetime.date.today().isoformat()


def table(reading: RowsReading) -> Iterator[str]:
    """Markdown tables of a reading: milliseconds, then gains."""
    yield "| rows | of so many sequences, ms | tok/s in all | × one | of one sequence, ms | × one |"
    yield "|---:|---:|---:|---:|---:|---:|"
    for rows, ms in reading.sequences.items():
        own = reading.one[rows]
        yield (
            f"| {rows} | {ms:.2f} | {1e3 * rows / ms:.0f} | {reading.batching(rows):.2f} |"
            f" {own:.2f} | {own / reading.one[1]:.2f} |"
        )
    yield ""
    yield f"| drafts that are right | {' | '.join(f'{share:.0%}' for share in ACCEPTED)} |"
    yield f"|---|{'---|' * len(ACCEPTED)}"
    for name, cost in (
        ("looked up, at no cost", 0.0),
        (f"a draft model, {DRAFT_COST:.1f} steps a draft", DRAFT_COST),
    ):
        gains = [reading.speculation(share, cost) for share in ACCEPTED]
        yield f"| {name} | {' | '.join(f'{gain:.2f} × ({k})' for gain, k in gains)} |"


def described(reading: RowsReading) -> str:
    """A reading on one line."""
    gain, drafts = reading.speculation(0.7)
    most = max(reading.sequences)
    noise = ", noisy" if reading.noisy else ""
    return (
        f"{reading.way}; {reading.day}{noise}: {most} sequences {reading.batching(most):.1f} ×,"
        f" 4 rows of one {reading.one[4] / reading.one[1]:.2f} × one row,"
        f" looked-up drafts of which 70 % are right {gain:.2f} × ({drafts} a step)"
    )


def folder() -> Path:
    """The directory of saved readings."""
    return own_folder("cache") / "rows"


def save(reading: RowsReading) -> str | None:
    """Save `reading`, replacing its model's last one; returns an error's text, or None."""
    name = "".join(c if c.isalnum() else "-" for c in reading.model)[:80]
    try:
        folder().mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(folder() / f"{name}.json", json.dumps(asdict(reading), indent=1).encode())
    except OSError as error:
        return str(error.strerror or error)
    return None


def load_all() -> list[RowsReading]:
    """This machine's valid saved readings, by model."""
    try:
        files = sorted(folder().glob("*.json"))
    except OSError:
        return []
    found = [reading for file in files if (reading := _read(file)) is not None]
    return [reading for reading in found if reading.machine == verdict.machine()]


def _read(file: Path) -> RowsReading | None:
    try:
        value = json.loads(read_small(file).decode("utf-8"))
        value |= {name: _numbers(value[name]) for name in ("sequences", "one")}
        found = RowsReading(**value)
        described(found)
        return found
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError):
        return None
    except RecursionError:
        return None


def _numbers(value: Mapping[str, Any]) -> dict[int, float]:
    return {int(rows): float(ms) for rows, ms in value.items()}

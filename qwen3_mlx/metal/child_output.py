"""Reads what a proof's child process prints: a line of JSON when a case begins, and at its end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class ChildOutput:
    """The files of one child's stdout and stderr, and its start time in seconds (`time.time`)."""

    def __init__(self, folder: Path, name: str, begun: float) -> None:
        self.name, self.begun = name, begun
        self.out, self.err = folder / f"{name}.out", folder / f"{name}.err"

    def lines(self) -> list[dict[str, Any]]:
        """The JSON objects printed so far; other lines are skipped."""
        found = []
        for line in self.out.read_text("utf-8", "replace").splitlines():
            with contextlib.suppress(ValueError):  # an incomplete line, or a library's output
                value = json.loads(line)
                if isinstance(value, dict):
                    found.append(value)
        return found

    def texts(self) -> list[str]:
        """The digests (`variants.text_digest`) of the sources whose cases were right so far."""
        ended = [line for line in self.lines() if line.get("fault", "") is None]
        return [text for line in ended for text in line.get("texts", [])]


def spent(outputs: Sequence[ChildOutput]) -> dict[str, float]:
    """The seconds that each child took, and how the slowest spent them: start, compile, compare."""
    found: dict[str, float] = {}
    slowest, longest = list[dict[str, Any]](), 0.0
    for one in outputs:
        lines = [line for line in one.lines() if "at" in line]
        took = lines[-1]["at"] - one.begun if lines else 0.0
        found[f"right, {one.name}"] = round(took, 1)
        if took > longest:
            slowest, longest = lines, took
            found["right, until the slowest begins"] = round(lines[0]["at"] - one.begun, 1)
    for part in ("compiled", "compared"):
        found[f"right, {part} by it"] = round(sum(line.get(part, 0.0) for line in slowest), 1)
    return found

"""Shows the texts that were sent while the model loads or a turn runs."""

from __future__ import annotations

from collections.abc import Sequence

from textual.widgets import Static

from qwen3_mlx.cli.tui.growing_text import showable

SHOWN = 3
"""Texts that are shown; more are only counted."""


class PendingInput(Static):
    """One row per queued text."""

    DEFAULT_CSS = """
    PendingInput {
        height: auto; padding: 0 1; display: none;
        text-style: dim; text-wrap: nowrap; text-overflow: ellipsis;
    }
    """

    def __init__(self) -> None:
        super().__init__(markup=False)

    def show(self, texts: Sequence[str]) -> None:
        """List `texts`; hidden if there are none."""
        lines = [f"waiting › {' '.join(showable(text).split())}" for text in texts[:SHOWN]]
        if len(texts) > SHOWN:
            lines.append(f"… {len(texts) - SHOWN} more")
        self.display = bool(lines)
        self.update("\n".join(lines))

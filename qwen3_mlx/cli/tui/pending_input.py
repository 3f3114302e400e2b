"""What was sent too early: while the model loads or a turn runs, it waits its turn, in view."""

from __future__ import annotations

from textual.widgets import Static

from qwen3_mlx.cli.tui.growing_text import showable

SHOWN = 3
"""Rows of what waits; of more, the first ones and a count."""


class PendingInput(Static):
    """Messages and commands that are done one by one, the first one first."""

    DEFAULT_CSS = """
    Waiting {
        height: auto; padding: 0 1; display: none;
        text-style: dim; text-wrap: nowrap; text-overflow: ellipsis;
    }
    """

    def __init__(self) -> None:
        super().__init__(markup=False)
        self._texts: list[str] = []

    def __len__(self) -> int:
        """How many wait."""
        return len(self._texts)

    def __bool__(self) -> bool:
        """Whether any do."""
        return bool(self._texts)

    def add(self, text: str) -> None:
        """Have `text` wait behind the others."""
        self._texts.append(text)
        self._show()

    def next(self) -> str:
        """The first one, which waits no longer."""
        text = self._texts.pop(0)
        self._show()
        return text

    def take_back(self) -> str:
        """All of them as one text; none waits any longer."""
        text = "\n".join(self._texts)
        self._texts.clear()
        self._show()
        return text

    def _show(self) -> None:
        lines = [f"waiting › {' '.join(showable(text).split())}" for text in self._texts[:SHOWN]]
        if len(self) > SHOWN:
            lines.append(f"… {len(self) - SHOWN} more")
        self.display = bool(lines)
        self.update("\n".join(lines))

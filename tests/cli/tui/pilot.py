"""A full-screen chat with a scripted model, driven key by key, without a terminal."""

from __future__ import annotations

import html
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.pilot import Pilot
from textual.strip import Strip

from qwen3_mlx.cli.tui.app import Chat
from qwen3_mlx.cli.tui.chat_setup import ChatSetup
from qwen3_mlx.options import GenerationOptions
from tests.cli.tmux import PATIENCE_S
from tests.fakes import FakeModel, Turn

CELL = 12.2
"""The width of a cell in Textual's screenshots."""
_TEXT = re.compile(
    r'<text [^>]*x="([\d.]+)"[^>]*clip-path="url\(#[\w-]+-line-(\d+)\)"[^>]*>([^<]*)<'
)


class ChatPilot:
    """Where a person would sit: what they see, and what they press."""

    def __init__(self, app: Chat, pilot: Pilot[int], model: FakeModel) -> None:
        self.app, self.pilot, self.model = app, pilot, model

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def type(self, text: str) -> None:
        """Paste `text` and press Enter."""
        self.app.input.insert(text)
        await self.pilot.press("enter")

    @property
    def rows(self) -> list[str]:
        """What is on the screen, row by row."""
        rows = [""] * self.app.size.height
        for x, row, text in _TEXT.findall(self.app.export_screenshot()):
            before = rows[int(row)]
            blanks = " " * (round(float(x) / CELL) - cell_len(before))
            rows[int(row)] = before + blanks + html.unescape(text).replace("\xa0", " ")
        return [row.rstrip() for row in rows]

    def styled(self, rows: int | None = None) -> Iterator[tuple[str, Style]]:
        """The letters of the screen, or of its first `rows`, and how each is painted."""
        filters = self.app.get_line_filters()
        ground = self.app.screen.styles.background
        for y, row in enumerate(self.rows[:rows]):
            for x, letter in enumerate(row.ljust(self.app.size.width)):
                strip = Strip([Segment(letter, self.app.screen.get_style_at(x, y))])
                for line_filter in filters:
                    strip = strip.apply_filter(line_filter, ground)
                for segment in strip:
                    yield letter, segment.style or Style.null()

    @property
    def seen(self) -> str:
        return "\n".join(self.rows)

    @property
    def status(self) -> str:
        return self.rows[-1]

    async def until(self, holds: str | Callable[[], Any]) -> None:
        """Wait until a text is on the screen, or something holds."""
        end = time.monotonic() + PATIENCE_S
        while not (holds in self.seen if isinstance(holds, str) else holds()):
            assert time.monotonic() < end, f"{holds!r} is not in:\n{self.seen}"
            await self.pilot.pause(0.02)

    async def idle(self) -> None:
        """Wait for the end of the turn."""
        await self.until(
            lambda: self.app.controller.turn is None and self.app.controller.chat is not None
        )
        await self.pilot.pause(0.1)  # its last frame


@asynccontextmanager
async def run_chat(
    *script: Turn,
    size: tuple[int, int] = (80, 24),
    load: Any = None,
    model: FakeModel | None = None,
    **setup: Any,
) -> AsyncIterator[ChatPilot]:
    """A chat whose model follows `script`; within, it runs, and behind it has ended."""
    model = model or FakeModel(script)
    setup = {"name": "fake", "options": GenerationOptions(), "find": str, **setup}
    app = Chat(ChatSetup(load=load or (lambda _name, _progress: model), **setup))
    async with app.run_test(size=size) as pilot:
        chat = ChatPilot(app, pilot, model)
        if load is None:
            await chat.until(lambda: app.controller.chat)
        yield chat


def history(tmp_path: Path, *entries: str) -> Path:
    """A history file with `entries`."""
    file = tmp_path / "history"
    file.write_text("".join(f"\n# then\n+{entry}\n" for entry in entries))
    return file

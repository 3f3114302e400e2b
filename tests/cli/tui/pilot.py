"""A full-screen chat with a scripted model, driven key by key, without a terminal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from qwen3_mlx.cli.tui.app import Chat
from qwen3_mlx.cli.tui.chat_setup import ChatSetup
from qwen3_mlx.options import GenerationOptions
from tests.cli.tmux import PATIENCE_S
from tests.fakes import FakeModel, Turn

Test = Callable[["Seat"], Awaitable[None]]


class Seat:
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
        strips = self.app.screen._compositor.render_strips()
        return [strip.text.rstrip() for strip in strips]

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


def sit(
    test: Test,
    *script: Turn,
    size: tuple[int, int] = (80, 24),
    load: Any = None,
    model: FakeModel | None = None,
    **start: Any,
) -> Chat:
    """Run `test` at a chat whose model follows `script`; returns the app, which has ended."""
    model = model or FakeModel(script)
    start = {"name": "fake", "options": GenerationOptions(), "find": str, **start}
    app = Chat(ChatSetup(load=load or (lambda _name, _progress: model), **start))

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            seat = Seat(app, pilot, model)
            if load is None:
                await seat.until(lambda: app.controller.chat)
            await test(seat)

    asyncio.run(run())
    return app


def history(tmp_path: Path, *entries: str) -> Path:
    """A history file with `entries`."""
    file = tmp_path / "history"
    file.write_text("".join(f"\n# then\n+{entry}\n" for entry in entries))
    return file

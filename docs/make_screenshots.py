"""Make the screenshots in docs/: the chat with the bundled demo, at 100 columns and 28 rows.

    uv run python docs/make_screenshots.py

The turns are real (seeded); only their timings differ from run to run.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["QWEN3_MLX_HOME"] = tempfile.mkdtemp()

from qwen3_mlx import load
from qwen3_mlx.cli.tui.app import Chat
from qwen3_mlx.cli.tui.chat_setup import ChatSetup
from qwen3_mlx.options import GenerationOptions

FOLDER = Path(__file__).parent
SIZE = (100, 28)


async def until(holds: Callable[[], object]) -> None:
    """Wait for up to a minute until something holds."""
    end = time.monotonic() + 60
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError
        await asyncio.sleep(0.005)


async def say(app: Chat, text: str) -> None:
    """Type `text`, press Enter, and see that it is taken."""
    before = len(app.log_view.query("Said, Note"))
    app.input.insert(text)
    app.input.action_send()  # the pilot's Enter would wait for the end of the turn
    await until(lambda: len(app.log_view.query("Said, Note")) > before)


async def shoot() -> None:
    """Talk, and take the pictures."""
    app = Chat(ChatSetup("demo", lambda name, _progress: load(name), GenerationOptions(seed=1)))
    async with app.run_test(size=SIZE) as pilot:
        await until(lambda: app.chat)
        for text in ("Hello!", "Sort 5, 2, 9, 1"):
            await say(app, text)
            await until(lambda: app.view is None)
        await say(app, "/budget 256")
        await say(app, "What is 48 * 19?")
        await until(lambda: app.view and app.view.thought and app.view.thought.tokens > 60)
        save(app, "chat-thinking.svg")
        await until(lambda: app.view is None)
        await say(app, "/budget 16")
        await say(app, "how many r's in strawberry?")
        await until(lambda: app.view is None)
        await pilot.press("ctrl+r", "/")
        await pilot.pause(0.2)
        save(app, "chat-budget.svg")


def save(app: Chat, name: str) -> None:
    """Write what is on the screen."""
    (FOLDER / name).write_text(app.export_screenshot(title="qwen3-mlx chat"), "utf-8")


if __name__ == "__main__":
    asyncio.run(shoot())

"""The full-screen chat as a picture: every cell, colour and style, against one looked at by eye.

After a change that is meant: ``LOOKED_AT=1 pytest tests/cli/tui/test_picture.py``, and look at it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.cli.tui.pilot import run_chat

FOLDER = Path(__file__).parents[2] / "golden" / "chat"
MESSAGES = [
    {"role": "user", "content": "How do I list files?\nשלום 你好"},
    {
        "role": "assistant",
        "reasoning_content": "They want *ls*.\n\nKeep it short. 想想",
        "content": "Use `ls`:\n\n```sh\nls -l | wc  # counts\n```\n\n"
        "1. **short** and *plain*\n2. 你好 🌍\n\n| a | b |\n|---|---|\n| 1 | שלום |\n\n> said\n",
    },
]


@pytest.mark.parametrize(("name", "size"), [("wide", (80, 30)), ("narrow", (44, 40))])
async def test_the_picture(name: str, size: tuple[int, int]) -> None:
    taken: list[str] = []
    async with run_chat(size=size) as chat:
        chat.app.log_view.show(MESSAGES, folded=False)
        await chat.press(*"/ex")
        await chat.until("/export")
        await chat.until("▌ said")
        await chat.until("│ They want")
        taken.append(chat.app.export_screenshot(title="chat"))
    # the ids are made from the contents of the whole, and would hide what differs
    svg = re.sub(r"terminal-\d+-", "terminal-", taken[0])
    file = FOLDER / f"{name}.svg"
    if os.environ.get("LOOKED_AT"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(svg, "utf-8")
    assert svg.splitlines() == file.read_text("utf-8").splitlines()

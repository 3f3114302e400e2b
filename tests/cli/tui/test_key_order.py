"""Keys that arrive together are handled in their order."""

from __future__ import annotations

import pytest
from textual import events

from tests.cli.tui.pilot import run_chat

CASES = {
    "ctrl+u": (["ctrl+u", "n", "o"], "no"),
    "backspace": (["backspace", "d"], "abd"),
    "left": (["left", "d"], "abdc"),
    "home": (["home", "d"], "dabc"),
    "ctrl+a": (["ctrl+a", "d", "ctrl+e", "e"], "dabce"),
    "ctrl+w": (["ctrl+w", "d"], "d"),
    "delete": (["home", "delete", "d"], "dbc"),
    "ctrl+k": (["left", "ctrl+k", "d"], "abd"),
}


@pytest.mark.parametrize("keys", CASES)
async def test_keys_of_one_burst_keep_their_order(keys: str) -> None:
    async with run_chat() as chat:
        chat.app.input.put("abc")
        pressed, expected = CASES[keys]
        for key in pressed:
            chat.app.post_message(events.Key(key, key if len(key) == 1 else None))
        await chat.idle()
        assert chat.app.input.text == expected

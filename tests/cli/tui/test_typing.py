"""Letters that Textual's editor doesn't take for such."""

from __future__ import annotations

import pytest
from textual.events import Key

from tests.cli.tui.pilot import run_chat
from tests.fakes import Answer

FAMILY = "👨\u200d👩\u200d👧\u200d👦"
PERSIAN = "می\u200cخواهم"


@pytest.mark.parametrize("text", [FAMILY, PERSIAN], ids=["family", "Persian"])
async def test_what_is_typed_letter_by_letter_is_sent_whole(text: str) -> None:
    async with run_chat([Answer("so")]) as chat:
        for letter in text:  # as a terminal sends them; the pilot has no such keys
            chat.app.input.post_message(Key(letter, letter))
        await chat.pilot.pause()
        assert chat.app.input.text == text
        await chat.press("left", "right", "x", "backspace", "enter")
        await chat.idle()
        assert chat.model.asked[0][0][-1]["content"] == text
        assert f"› {text}" in chat.seen

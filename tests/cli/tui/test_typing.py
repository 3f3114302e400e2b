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


async def test_who_writes_on_at_the_question_whether_to_leave_stays() -> None:
    """The Esc was for a turn that had just ended; the letters behind it were lost."""
    async with run_chat([Answer("so")]) as chat:
        await chat.press("escape")
        await chat.until("Leave the chat?")
        for letter in "What? Yes, nine.":
            chat.app.post_message(Key(letter, letter))
        chat.app.post_message(Key("enter", "\r"))
        await chat.until("so")
        await chat.idle()
        assert chat.model.asked[0][0][-1]["content"] == "What? Yes, nine."
        await chat.press("escape")
        await chat.until("Leave the chat?")
        await chat.press("n")
        await chat.until(lambda: "Leave the chat?" not in chat.seen)
        assert chat.app.input.text == ""

"""Letters that Textual's editor doesn't take for such."""

from __future__ import annotations

import pytest
from textual.events import Key

from tests.cli.tui.pilot import Seat, sit
from tests.fakes import Answer

FAMILY = "👨\u200d👩\u200d👧\u200d👦"
PERSIAN = "می\u200cخواهم"


@pytest.mark.parametrize("text", [FAMILY, PERSIAN], ids=["family", "Persian"])
def test_what_is_typed_letter_by_letter_is_sent_whole(text: str) -> None:
    async def test(seat: Seat) -> None:
        for letter in text:  # as a terminal sends them; the pilot has no such keys
            seat.app.input.post_message(Key(letter, letter))
        await seat.pilot.pause()
        assert seat.app.input.text == text
        await seat.press("left", "right", "x", "backspace", "enter")
        await seat.idle()
        assert seat.model.asked[0][0][-1]["content"] == text
        assert f"› {text}" in seat.seen

    sit(test, [Answer("so")])

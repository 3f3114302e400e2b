"""What the scripted server tells of its turns, which overlap on a busy machine."""

from __future__ import annotations

from typing import Any, cast

from tests.clients.served import Served, Took


def test_turns_are_told_apart_by_their_prompts_in_whatever_order_they_end() -> None:
    served = Served(cast(Any, None), str)
    served.prompts += ["<tools> go", "a title", "<tools> go, went", "<tools> go, went"]
    served.ended += [
        Took("lost", 5, 0, "<tools> never begun"),  # its client went before the model began
        Took("second", 20, 10, "<tools> go, went"),
        Took("again", 20, 20, "<tools> go, went"),  # its client had lost patience
        Took("title", 3, 0, "a title"),
        Took("first", 10, 0, "<tools> go"),
    ]
    assert [one.id for one in served.with_tools] == ["first", "second"]
    assert [one.computed for one in served.with_tools] == [10, 10]

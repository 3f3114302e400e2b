"""The themes of the full screen: whose colours are painted, and that none are where none may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
from rich.color import Color, ColorType

from qwen3_mlx.cli.settings import settings
from qwen3_mlx.cli.tui.theme import THEMES, Themed
from qwen3_mlx.events import Answer, Thinking
from tests.cli.tui.pilot import Seat, sit

CODE = "A list:\n\n- **one**\n\n```python\nx = 'text' + 1  # why\n```\n\nand `code` and [a](http://b)\n"
"""An answer with every colour that Markdown brings."""


Colours = set[Color | None]
"""None is the terminal's own, as is `Color.default()`."""


def colours(theme: str) -> tuple[Colours, Colours]:
    """The colours of letters and of the ground behind them, after a turn and an error."""
    letters: Colours = set()
    grounds: Colours = set()

    async def test(seat: Seat) -> None:
        await seat.type("hi")
        await seat.idle()
        await seat.type("/budget lots")
        await seat.until("error:")
        await seat.press("/")
        await seat.until("/help")
        await seat.until("x = 'text' + 1")
        for strip in seat.app.screen._compositor.render_strips()[:-3]:  # not the cursor
            for segment in strip:
                if segment.text.strip():
                    letters.add(segment.style.color if segment.style else None)
                grounds.add(segment.style.bgcolor if segment.style else None)

    sit(test, [Thinking("hm"), Answer(CODE)], theme=theme)
    return letters, grounds


def brightness(found: Colours) -> list[int]:
    assert not found & OWN
    return [sum(colour.get_truecolor()) // 3 for colour in found if colour]


OWN = {None, Color.default()}


def test_auto_takes_the_terminals_own_colours() -> None:
    letters, grounds = colours("auto")
    types = {colour.type for colour in letters | grounds if colour}
    assert types == {ColorType.DEFAULT, ColorType.STANDARD}


@pytest.mark.parametrize(
    ("theme", "fits"), [("dark", lambda value: value < 100), ("light", lambda value: value > 150)]
)
def test_dark_and_light_bring_their_ground(theme: str, fits: Callable[[int], bool]) -> None:
    letters, grounds = colours(theme)
    values = brightness(grounds)
    assert values and all(map(fits, values)), values
    assert any(not fits(value) for value in brightness(letters))  # letters stand out from it


@pytest.mark.parametrize(
    ("theme", "variable"), [("none", ""), *((t, "1") for t in settings.THEMES)]
)
def test_none_and_no_color_paint_without_colour(
    theme: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable:
        monkeypatch.setenv("NO_COLOR", variable)
    letters, grounds = colours(theme)
    assert letters | grounds <= OWN


def test_every_theme_that_can_be_set_is_one() -> None:
    assert {*THEMES, "none"} == set(settings.THEMES)
    assert all(Themed(name).theme for name in settings.THEMES)
    from qwen3_mlx.cli.tui.turn_view import ShowThinking as Shown

    assert get_args(Shown) == settings.SHOW_THINKING


def test_an_unknown_theme_is_a_bug() -> None:
    unknown: Any = "pink"
    with pytest.raises(KeyError):
        Themed(unknown)

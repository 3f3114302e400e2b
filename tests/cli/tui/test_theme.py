"""The themes of the full screen: whose colours are painted, and that none are where none may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from rich.color import Color, ColorType

from qwen3_mlx.cli.settings import settings
from qwen3_mlx.cli.tui.theme import THEMES, Themed
from qwen3_mlx.events import Answer, Thinking
from tests.cli.tui.pilot import run_chat

CODE = "A list:\n\n- **one**\n\n```python\nx = 'text' + 1  # why\n```\n\nand `code` and [a](http://b)\n"
"""An answer with every colour that Markdown brings."""


Colours = set[Color | None]
"""None is the terminal's own, as is `Color.default()`."""


async def colours(theme: str) -> tuple[Colours, Colours]:
    """The colours of letters and of the ground behind them, after a turn and an error."""
    letters: Colours = set()
    grounds: Colours = set()
    async with run_chat([Thinking("hm"), Answer(CODE)], theme=theme) as chat:
        await chat.type("hi")
        await chat.idle()
        await chat.type("/budget lots")
        await chat.until("error:")
        await chat.press("/")
        await chat.until("/help")
        await chat.until("x = 'text' + 1")
        for letter, style in chat.styled(rows=-3):  # not the cursor
            if letter.strip():
                letters.add(style.color)
            grounds.add(style.bgcolor)
    return letters, grounds


def brightness(found: Colours) -> list[int]:
    assert not found & OWN
    return [sum(colour.get_truecolor()) // 3 for colour in found if colour]


OWN = {None, Color.default()}


async def test_auto_takes_the_terminals_own_colours() -> None:
    letters, grounds = await colours("auto")
    types = {colour.type for colour in letters | grounds if colour}
    assert types == {ColorType.DEFAULT, ColorType.STANDARD}


@pytest.mark.parametrize(
    ("theme", "fits"), [("dark", lambda value: value < 100), ("light", lambda value: value > 150)]
)
async def test_dark_and_light_bring_their_ground(theme: str, fits: Callable[[int], bool]) -> None:
    letters, grounds = await colours(theme)
    values = brightness(grounds)
    assert values and all(map(fits, values)), values
    assert any(not fits(value) for value in brightness(letters))  # letters stand out from it


@pytest.mark.parametrize(
    ("theme", "variable"), [("none", ""), *((t, "1") for t in settings.THEMES)]
)
async def test_none_and_no_color_paint_without_colour(
    theme: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable:
        monkeypatch.setenv("NO_COLOR", variable)
    letters, grounds = await colours(theme)
    assert letters | grounds <= OWN


def test_every_theme_that_can_be_set_is_one() -> None:
    assert {*THEMES, "none"} == set(settings.THEMES)
    assert all(Themed(name).theme for name in settings.THEMES)


def test_an_unknown_theme_is_a_bug() -> None:
    unknown: Any = "pink"
    with pytest.raises(KeyError):
        Themed(unknown)

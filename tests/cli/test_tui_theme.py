"""The themes of the full screen: whose colours are painted, and that none are where none may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
from rich.color import Color, ColorType

from qwen3_mlx.cli import settings
from qwen3_mlx.cli.tui.theme import THEMES, Theme
from qwen3_mlx.events import Answer, Thinking
from tests.cli.pilot import Seat, sit

CODE = "A list:\n\n- **one**\n\n```python\nx = 'text' + 1  # why\n```\n\nand `code` and [a](http://b)\n"
"""An answer with every colour that Markdown brings."""


def colours(theme: str) -> tuple[set[Color], set[Color]]:
    """The colours of letters and of the ground behind them, after a turn and an error."""
    found: tuple[set[Color], set[Color]] = set(), set()

    async def test(seat: Seat) -> None:
        await seat.type("hi")
        await seat.idle()
        await seat.type("/budget lots")
        await seat.until("error:")
        await seat.press("/")
        await seat.until("/help")
        for strip in seat.app.screen._compositor.render_strips():
            for segment in strip:
                if segment.style is not None:
                    for place, colour in zip(
                        found, (segment.style.color, segment.style.bgcolor), strict=True
                    ):
                        if colour is not None:
                            place.add(colour)
        assert "x = 'text' + 1" in seat.seen

    sit(test, [Thinking("hm"), Answer(CODE)], theme=theme)
    return found


def brightness(grounds: set[Color]) -> list[int]:
    return [sum(ground.get_truecolor()) // 3 for ground in grounds]


def test_auto_takes_the_terminals_own_colours() -> None:
    letters, grounds = colours("auto")
    assert letters and all(colour.type is not ColorType.TRUECOLOR for colour in letters)
    assert all(colour.type is not ColorType.TRUECOLOR for colour in grounds)
    assert Color.default() in letters or Color.default() in grounds


@pytest.mark.parametrize(
    ("theme", "fits"), [("dark", lambda value: value < 100), ("light", lambda value: value > 150)]
)
def test_dark_and_light_bring_their_ground(theme: str, fits: Callable[[int], bool]) -> None:
    letters, grounds = colours(theme)
    assert all(colour.type is ColorType.TRUECOLOR for colour in letters | grounds)
    values = brightness(grounds)
    assert values and sum(map(fits, values)) > len(values) / 2, values
    assert any(not fits(value) for value in brightness(letters))  # letters stand out from it


@pytest.mark.parametrize(
    ("theme", "variable"), [("none", ""), *((t, "1") for t in settings.THEMES)]
)
def test_none_and_no_color_paint_without_colour(
    theme: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", variable)
    letters, grounds = colours(theme)
    assert letters | grounds <= {Color.default()}


def test_every_theme_that_can_be_set_is_one() -> None:
    assert {*THEMES, "none"} == set(settings.THEMES)
    assert all(Theme(name).textual for name in settings.THEMES)
    from qwen3_mlx.cli.options import ShowThinking
    from qwen3_mlx.cli.tui.turn import ShowThinking as Shown

    assert settings.SHOW_THINKING == tuple(ShowThinking) == get_args(Shown)


def test_an_unknown_theme_is_a_bug() -> None:
    unknown: Any = "pink"
    with pytest.raises(KeyError):
        Theme(unknown)

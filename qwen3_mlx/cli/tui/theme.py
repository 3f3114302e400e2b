"""The full-screen chat's colours: the terminal's palette, a dark or light theme, or none."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual.app import App
from textual.driver import Driver
from textual.filter import LineFilter, NoColor
from textual.strip import Strip

THEMES = {"auto": "ansi-dark", "dark": "textual-dark", "light": "textual-light"}
"""Textual's names of our themes; `ansi-dark` uses the terminal's palette, dark or light."""


class Themed(App[int]):
    """An app in one of `settings.THEMES`; the variable ``NO_COLOR`` overrides the theme."""

    def __init__(self, theme: str, driver_class: type[Driver] | None = None) -> None:
        self.colourless = theme == "none" or bool(os.environ.get("NO_COLOR"))
        name = THEMES["auto" if self.colourless else theme]
        super().__init__(driver_class, ansi_color=name.startswith("ansi"))
        self.theme = name

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Textual's filters of painted lines, plus one that removes colours."""
        filters = super().get_line_filters()
        return [*filters, NoColor()] if self.colourless else filters


def on_ground(line: Strip, ground: Style) -> Strip:
    """`line` with the colours of `ground` in place of default or missing colours."""
    return Strip([Segment(part.text, ground + _explicit_colours(part.style)) for part in line])


def _explicit_colours(style: Style | None) -> Style:
    """`style` without default colours, which Textual would map to the ANSI palette."""
    if style is None:
        return Style.null()
    colours = (_unless_default(colour) for colour in (style.color, style.bgcolor))
    return style.without_color + Style.from_color(*colours)


def _unless_default(colour: Color | None) -> Color | None:
    return None if colour is None or colour.is_default else colour

"""The colours of the full screen: the terminal's own, ours on a dark or a light ground, or none."""

from __future__ import annotations

import os

from textual.filter import LineFilter, NoColor

THEMES = {"auto": "ansi-dark", "dark": "textual-dark", "light": "textual-light"}
"""Textual's name for each; `ansi-dark` takes the terminal's palette, dark or light."""


class Theme:
    """What is painted with; ``NO_COLOR`` in the environment wins over every name."""

    def __init__(self, name: str) -> None:
        plain = name == "none" or bool(os.environ.get("NO_COLOR"))
        self.textual = THEMES["auto" if plain else name]
        self.is_ansi = self.textual.startswith("ansi")
        self.filters: tuple[LineFilter, ...] = (NoColor(),) if plain else ()

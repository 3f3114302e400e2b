"""What goes to the terminal for rows that changed, from the widgets that show in them alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import cast

from textual._compositor import Compositor
from textual.geometry import Region
from textual.strip import Strip


class Painter(Compositor):
    """Asks a widget only for those of its rows that are painted, and not if others cover them.

    Textual's own asks all widgets between the first changed row and the last, and what lies under
    them, each for all of its rows: half of what a frame of a growing text takes.
    """

    def _render_chops(
        self, crop: Region, is_rendered_line: Callable[[int], bool]
    ) -> Sequence[Mapping[int, Strip]]:
        rows = [y for y in crop.line_range if is_rendered_line(y)]
        chops: list[dict[int, Strip | None]] = [{} for _ in self.cuts]
        for y in rows:
            chops[y] = dict.fromkeys(self.cuts[y][:-1])
        for widget, (region, clip) in self.visible_widgets.items():  # from the front
            shown = region.intersection(clip)
            if asked := [y for y in rows if shown.y <= y < shown.bottom and shown.width]:
                first, last = asked[0], asked[-1]
                place = Region(shown.x, first, shown.width, last + 1 - first)
                strips = widget.render_lines(place.translate(-region.offset))
                for y in asked:
                    _fill(chops[y], self.cuts[y], shown, strips[y - first])
                rows = [y for y in rows if None in chops[y].values()]
        # Textual says the same, though what nothing covers is None
        return cast("Sequence[Mapping[int, Strip]]", chops)


def _fill(chops: dict[int, Strip | None], cuts: list[int], shown: Region, strip: Strip) -> None:
    """Put `strip`, which is where `shown` is, in those places of its row that are empty."""
    places = [(left, right) for left, right in pairwise(cuts) if shown.x <= left < shown.right]
    parts = strip.divide([right - shown.x for _, right in places])
    for (left, _), part in zip(places, parts, strict=False):
        if chops[left] is None:
            chops[left] = part

"""The screen that the chat stands on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from textual.screen import Screen
from textual.widget import Widget

from qwen3_mlx.cli.tui.painter import Painter

if TYPE_CHECKING:
    from qwen3_mlx.cli.tui.log import Log


class Stage(Screen[None]):
    """Paints a new line once.

    Textual lays a conversation out that has grown, paints it, finds that it must scroll, and does
    both again. Here the first painting, which shows nothing of the new line, is left out.
    """

    def __init__(self, log: Log) -> None:
        super().__init__(id="_default")
        self._log_view, self._left_out = log, False
        self._compositor, self._in_frame = Painter(), False

    def touch(self, widget: Widget) -> None:
        """Have painted what is dirty of `widget`: as its `refresh` would, without three messages.

        Each of them wakes a task, and that the loop's select.
        """
        self._dirty_widgets.add(widget)
        if not self._in_frame:
            self._update_timer.resume()

    @contextmanager
    def frame(self) -> Iterator[None]:
        """What is changed within is painted together, at its end.

        What waits for a new layout is painted with that.
        """
        self._in_frame = True
        try:
            yield
        finally:
            self._in_frame = False
        for widget in self._compositor.visible_widgets:
            if widget._layout_required:
                self._update_timer.resume()
                return
            if widget._repaint_required:
                widget._repaint_required = False
                self._dirty_widgets.add(widget)
        self._on_timer_update()

    def _compositor_refresh(self) -> None:
        # not twice in a row: on a slow machine there is always more to lay out
        self._left_out = not self._left_out and self._log_view._layout_required
        if not self._left_out:
            super()._compositor_refresh()

"""The screen that the chat stands on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from textual.screen import Screen
from textual.widget import Widget

from qwen3_mlx.cli.tui.painter import Painter


class Stage(Screen[None]):
    """Lays out and paints at once what a turn has changed.

    Textual sends itself three messages for it, each of which wakes a task, and that the loop's
    select. What it then paints of a scrollbar comes in a painting of its own.
    """

    def __init__(self) -> None:
        super().__init__(id="_default")
        self._compositor, self._in_frame = Painter(), False
        self._grown: set[Widget] = set()

    def touch(self, widget: Widget, *, grown: bool) -> None:
        """Have painted what is dirty of `widget`, which has other rows now if it has `grown`."""
        if grown:  # a layout paints
            widget.refresh(repaint=False, layout=True)
            self._grown.add(widget)
            return
        self._dirty_widgets.add(widget)
        if not self._in_frame:
            self._update_timer.resume()

    def expect(self, *widgets: Widget) -> None:
        """Lay these out at the end of the frame, if they need it."""
        self._grown.update(widgets)

    @contextmanager
    def frame(self) -> Iterator[None]:
        """What is changed within is painted together, at its end.

        Of what needs a new layout, texts that have grown are laid out at once too, and parts that
        were shown or hidden.
        """
        self._in_frame = True
        self._grown.clear()
        try:
            yield
        finally:
            self._in_frame = False
        waiting = {w for w in self._compositor.visible_widgets if w._layout_required}
        if waiting - self._grown:  # parts that are new; more of their layout may follow
            self._update_timer.resume()
            return
        for widget in waiting | self._grown:
            if widget._layout_required:
                self._announce(widget)
        self._gather()
        self._on_timer_update()

    def _announce(self, widget: Widget) -> None:
        """A layout is due: what `Widget._check_refresh` has `_on_layout` do, by a message."""
        widget._layout_required = False
        for ancestor in widget.ancestors:
            if not isinstance(ancestor, Widget):
                break
            ancestor._clear_arrangement_cache()
            ancestor._layout_updates += 1
            if not ancestor.styles.auto_dimensions:
                break
        self._layout_widgets[widget] = set()
        self._layout_required = True

    def _gather(self) -> None:
        """Paint along what has asked for it and whose message is under way: a scrollbar, say."""
        for widget in self._compositor.visible_widgets:
            if widget._repaint_required:
                widget._repaint_required = False
                self._dirty_widgets.add(widget)

    def _compositor_refresh(self) -> None:
        self._gather()
        self._compositor.update_widgets(self._dirty_widgets)
        super()._compositor_refresh()


def display(widget: Widget, shown: bool) -> None:
    """Show `widget`, or hide it."""
    widget.display = shown
    if widget.is_attached and isinstance(widget.screen, Stage):
        widget.screen.expect(
            widget,
            *(a for a in widget.ancestors if isinstance(a, Widget) and a is not widget.screen),
        )

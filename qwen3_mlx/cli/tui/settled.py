"""A size that has just been laid out is not laid out a second time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.geometry import Size
from textual.widget import Widget

# A base that is a widget would take the place of the other's in what their styles inherit.
_Base = Widget if TYPE_CHECKING else object


class Settled(_Base):
    """Takes the size that a layout gave it, and keeps its rows if only their number has changed.

    Textual lays everything out anew when a widget's virtual size changes, for the sake of
    scrollbars that come and go, and draws all of a widget anew that has grown.
    """

    def _size_updated(
        self, size: Size, virtual_size: Size, container_size: Size, layout: bool = True
    ) -> bool:
        if size.width == self._size.width:
            self._size = size
        return super()._size_updated(size, virtual_size, container_size, layout=False)

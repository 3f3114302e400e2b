"""A size that has just been laid out is not laid out a second time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.geometry import Region, Size
from textual.widget import Widget

if TYPE_CHECKING:
    _Base = Widget
else:  # a widget's styles are inherited from its first base that is a widget
    _Base = object


class Settled(_Base):
    """Takes the size that a layout gave it, and keeps its rows if only their number has changed.

    Textual lays everything out anew when a widget's virtual size changes, for the sake of
    scrollbars that come and go, and draws all of a widget anew that has grown.
    """

    def _size_updated(
        self, size: Size, virtual_size: Size, container_size: Size, layout: bool = True
    ) -> bool:
        before = self._size
        if size.width == before.width:
            same = min(before.height, size.height) - self.gutter.bottom
            self._size = size
            self._styles_cache.set_dirty(Region(0, same, size.width, size.height - same))
        return super()._size_updated(size, virtual_size, container_size, layout=False)

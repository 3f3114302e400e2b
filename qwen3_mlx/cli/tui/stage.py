"""The screen that the chat stands on."""

from __future__ import annotations

from textual.screen import Screen

from qwen3_mlx.cli.tui.log import Log


class Stage(Screen[None]):
    """Paints a new line once.

    Textual lays a conversation out that has grown, paints it, finds that it must scroll, and does
    both again. Here the first painting, which shows nothing of the new line, is left out.
    """

    def __init__(self, log: Log) -> None:
        super().__init__(id="_default")
        self._log_view, self._left_out = log, False

    def _compositor_refresh(self) -> None:
        # not twice in a row: on a slow machine there is always more to lay out
        self._left_out = not self._left_out and self._log_view._layout_required
        if not self._left_out:
            super()._compositor_refresh()
